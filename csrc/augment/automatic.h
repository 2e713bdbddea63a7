// What RandAugment, TrivialAugmentWide and AutoAugment choose from, and the values of their magnitudes.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace fastssl {

// `random`: bilinear or bicubic, as drawn.
enum class Interpolation : int32_t { bilinear, nearest, bicubic, random };

// In the order of CHOICES in fastssl/augment/automatic.py. RandAugment and TrivialAugmentWide choose from those before
// `invert`, timm's RandAugment from all but the identity.
enum class Choice {
  identity,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  rotate,
  brightness,
  saturation,
  contrast,
  sharpness,
  posterize,
  solarize,
  autocontrast,
  equalize,
  invert,
  solarize_add,
  count
};
// torchvision's but for timm's RandAugment; the last three are AutoAugment's, in the order of POLICIES.
enum class Automatic { rand, wide, timm, imagenet, cifar10, svhn, count };

// The value of a magnitude t in [0, 1] on a view of h x w pixels, and whether its sign is drawn.
inline double value_of(Choice c, Automatic policy, double t, double h, double w, bool& is_signed) {
  const bool wide = policy == Automatic::wide, timm = policy == Automatic::timm;
  const auto shift = [&](double length) {
    return timm ? 0.45 * length * t : std::trunc((wide ? 32.0 : 150.0 / 331.0 * length) * t);
  };
  is_signed = c >= Choice::shear_x && c <= Choice::sharpness;
  switch (c) {
    case Choice::shear_x:
    case Choice::shear_y: return (wide ? 0.99 : 0.3) * t;
    case Choice::translate_x: return shift(w);
    case Choice::translate_y: return shift(h);
    case Choice::rotate: return (wide ? 135.0 : 30.0) * t;
    case Choice::brightness:
    case Choice::saturation:
    case Choice::contrast:
    case Choice::sharpness: return (wide ? 0.99 : 0.9) * t;
    case Choice::posterize: return timm ? 4 - std::floor(4 * t) : std::nearbyint(8 - (wide ? 6 : 4) * t);
    case Choice::solarize: return timm ? (255.5 - std::floor(256 * t)) / 255 : 1 - t;  // timm's: between two levels
    case Choice::solarize_add: return std::floor(110 * t) / 255;
    default: return 0;
  }
}

// One of the two steps of a sub-policy: the probability of its application, and which of ten magnitudes.
struct Chosen {
  Choice which;
  double p;
  int magnitude;
};
using SubPolicy = std::array<Chosen, 2>;
// Cubuk et al. 2019, as torchvision has them.
constexpr SubPolicy kSubPolicies[3][25] = {
    {
        // IMAGENET
        {{{Choice::posterize, 0.4, 8}, {Choice::rotate, 0.6, 9}}},
        {{{Choice::solarize, 0.6, 5}, {Choice::autocontrast, 0.6, 0}}},
        {{{Choice::equalize, 0.8, 0}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::posterize, 0.6, 7}, {Choice::posterize, 0.6, 6}}},
        {{{Choice::equalize, 0.4, 0}, {Choice::solarize, 0.2, 4}}},
        {{{Choice::equalize, 0.4, 0}, {Choice::rotate, 0.8, 8}}},
        {{{Choice::solarize, 0.6, 3}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::posterize, 0.8, 5}, {Choice::equalize, 1.0, 0}}},
        {{{Choice::rotate, 0.2, 3}, {Choice::solarize, 0.6, 8}}},
        {{{Choice::equalize, 0.6, 0}, {Choice::posterize, 0.4, 6}}},
        {{{Choice::rotate, 0.8, 8}, {Choice::saturation, 0.4, 0}}},
        {{{Choice::rotate, 0.4, 9}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::equalize, 0.0, 0}, {Choice::equalize, 0.8, 0}}},
        {{{Choice::invert, 0.6, 0}, {Choice::equalize, 1.0, 0}}},
        {{{Choice::saturation, 0.6, 4}, {Choice::contrast, 1.0, 8}}},
        {{{Choice::rotate, 0.8, 8}, {Choice::saturation, 1.0, 2}}},
        {{{Choice::saturation, 0.8, 8}, {Choice::solarize, 0.8, 7}}},
        {{{Choice::sharpness, 0.4, 7}, {Choice::invert, 0.6, 0}}},
        {{{Choice::shear_x, 0.6, 5}, {Choice::equalize, 1.0, 0}}},
        {{{Choice::saturation, 0.4, 0}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::equalize, 0.4, 0}, {Choice::solarize, 0.2, 4}}},
        {{{Choice::solarize, 0.6, 5}, {Choice::autocontrast, 0.6, 0}}},
        {{{Choice::invert, 0.6, 0}, {Choice::equalize, 1.0, 0}}},
        {{{Choice::saturation, 0.6, 4}, {Choice::contrast, 1.0, 8}}},
        {{{Choice::equalize, 0.8, 0}, {Choice::equalize, 0.6, 0}}},
    },
    {
        // CIFAR10
        {{{Choice::invert, 0.1, 0}, {Choice::contrast, 0.2, 6}}},
        {{{Choice::rotate, 0.7, 2}, {Choice::translate_x, 0.3, 9}}},
        {{{Choice::sharpness, 0.8, 1}, {Choice::sharpness, 0.9, 3}}},
        {{{Choice::shear_y, 0.5, 8}, {Choice::translate_y, 0.7, 9}}},
        {{{Choice::autocontrast, 0.5, 0}, {Choice::equalize, 0.9, 0}}},
        {{{Choice::shear_y, 0.2, 7}, {Choice::posterize, 0.3, 7}}},
        {{{Choice::saturation, 0.4, 3}, {Choice::brightness, 0.6, 7}}},
        {{{Choice::sharpness, 0.3, 9}, {Choice::brightness, 0.7, 9}}},
        {{{Choice::equalize, 0.6, 0}, {Choice::equalize, 0.5, 0}}},
        {{{Choice::contrast, 0.6, 7}, {Choice::sharpness, 0.6, 5}}},
        {{{Choice::saturation, 0.7, 7}, {Choice::translate_x, 0.5, 8}}},
        {{{Choice::equalize, 0.3, 0}, {Choice::autocontrast, 0.4, 0}}},
        {{{Choice::translate_y, 0.4, 3}, {Choice::sharpness, 0.2, 6}}},
        {{{Choice::brightness, 0.9, 6}, {Choice::saturation, 0.2, 8}}},
        {{{Choice::solarize, 0.5, 2}, {Choice::invert, 0.0, 0}}},
        {{{Choice::equalize, 0.2, 0}, {Choice::autocontrast, 0.6, 0}}},
        {{{Choice::equalize, 0.2, 0}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::saturation, 0.9, 9}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::autocontrast, 0.8, 0}, {Choice::solarize, 0.2, 8}}},
        {{{Choice::brightness, 0.1, 3}, {Choice::saturation, 0.7, 0}}},
        {{{Choice::solarize, 0.4, 5}, {Choice::autocontrast, 0.9, 0}}},
        {{{Choice::translate_y, 0.9, 9}, {Choice::translate_y, 0.7, 9}}},
        {{{Choice::autocontrast, 0.9, 0}, {Choice::solarize, 0.8, 3}}},
        {{{Choice::equalize, 0.8, 0}, {Choice::invert, 0.1, 0}}},
        {{{Choice::translate_y, 0.7, 9}, {Choice::autocontrast, 0.9, 0}}},
    },
    {
        // SVHN
        {{{Choice::shear_x, 0.9, 4}, {Choice::invert, 0.2, 0}}},
        {{{Choice::shear_y, 0.9, 8}, {Choice::invert, 0.7, 0}}},
        {{{Choice::equalize, 0.6, 0}, {Choice::solarize, 0.6, 6}}},
        {{{Choice::invert, 0.9, 0}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::equalize, 0.6, 0}, {Choice::rotate, 0.9, 3}}},
        {{{Choice::shear_x, 0.9, 4}, {Choice::autocontrast, 0.8, 0}}},
        {{{Choice::shear_y, 0.9, 8}, {Choice::invert, 0.4, 0}}},
        {{{Choice::shear_y, 0.9, 5}, {Choice::solarize, 0.2, 6}}},
        {{{Choice::invert, 0.9, 0}, {Choice::autocontrast, 0.8, 0}}},
        {{{Choice::equalize, 0.6, 0}, {Choice::rotate, 0.9, 3}}},
        {{{Choice::shear_x, 0.9, 4}, {Choice::solarize, 0.3, 3}}},
        {{{Choice::shear_y, 0.8, 8}, {Choice::invert, 0.7, 0}}},
        {{{Choice::equalize, 0.9, 0}, {Choice::translate_y, 0.6, 6}}},
        {{{Choice::invert, 0.9, 0}, {Choice::equalize, 0.6, 0}}},
        {{{Choice::contrast, 0.3, 3}, {Choice::rotate, 0.8, 4}}},
        {{{Choice::invert, 0.8, 0}, {Choice::translate_y, 0.0, 2}}},
        {{{Choice::shear_y, 0.7, 6}, {Choice::solarize, 0.4, 8}}},
        {{{Choice::invert, 0.6, 0}, {Choice::rotate, 0.8, 4}}},
        {{{Choice::shear_y, 0.3, 7}, {Choice::translate_x, 0.9, 3}}},
        {{{Choice::shear_x, 0.1, 6}, {Choice::invert, 0.6, 0}}},
        {{{Choice::solarize, 0.7, 2}, {Choice::translate_y, 0.6, 7}}},
        {{{Choice::shear_y, 0.8, 4}, {Choice::invert, 0.8, 0}}},
        {{{Choice::shear_x, 0.7, 9}, {Choice::translate_y, 0.8, 3}}},
        {{{Choice::shear_y, 0.8, 5}, {Choice::autocontrast, 0.7, 0}}},
        {{{Choice::shear_x, 0.7, 2}, {Choice::invert, 0.1, 0}}},
    },
};

}  // namespace fastssl
