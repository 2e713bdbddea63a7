// torch operators through torch's stable ABI: one build works with every torch from 2.10 on. Python checks
// arguments and names them in its errors; what could crash is checked again here.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "core/buffer.h"
#include "pair/loss.h"
#include "pooled_tensor.h"
#include "tensors.h"

namespace fastssl {
namespace {

struct Arguments {
  PairProblem problem;
  Keep keep;
};

// The arguments of the operator, in the order of its schema.
#define FASTSSL_PAIR_ARGUMENTS                                                                                    \
  Tensor x, MaybeTensor more_x, MaybeTensor y, MaybeTensor more_y, MaybeTensor ids, MaybeTensor scale,            \
      MaybeTensor bias, double scale_value, int64_t positives, int64_t closing, double normalize, bool symmetric, \
      int64_t ignore_index, int64_t reduction, int64_t keep
#define FASTSSL_PAIR_SCHEMA                                                                                           \
  "Tensor x, Tensor? more_x, Tensor? y, Tensor? more_y, Tensor? ids, Tensor? scale, Tensor? bias, "                   \
  "float scale_value, int positives, int closing, float normalize, bool symmetric, int ignore_index, int reduction, " \
  "int keep"
#define FASTSSL_PAIR_VALUES                                                                                    \
  x, more_x, y, more_y, ids, scale, bias, scale_value, positives, closing, normalize, symmetric, ignore_index, \
      reduction, keep

Arguments parse(FASTSSL_PAIR_ARGUMENTS) {
  STD_TORCH_CHECK(positives >= 0 && positives < kPositivesValues, "fastssl: unknown positives ", positives);
  STD_TORCH_CHECK(closing >= 0 && closing < kClosingValues, "fastssl: unknown closing ", closing);
  STD_TORCH_CHECK(reduction >= 0 && reduction < kReductionValues, "fastssl: unknown reduction ", reduction);
  STD_TORCH_CHECK(keep >= 0 && keep < kKeepValues, "fastssl: unknown value of keep ", keep);
  STD_TORCH_CHECK(normalize >= 0, "fastssl: rows cannot be divided by ", normalize);
  PairProblem p;
  p.positives = Positives(positives);
  p.closing = Closing(closing);
  p.reduction = Reduction(reduction);
  p.normalize = normalize;
  p.symmetric = symmetric;
  p.ignore_index = ignore_index;
  p.dtype = dtype_of(x);
  STD_TORCH_CHECK((Keep(keep) != Keep::gradients && Keep(keep) != Keep::products) || p.reduction != Reduction::none,
                  "fastssl: gradients are kept of one value");
  STD_TORCH_CHECK(Keep(keep) != Keep::products || (y && !symmetric),
                  "fastssl: products are kept of two sides and one direction");
  STD_TORCH_CHECK(x.dim() == 2, "fastssl: expected matrices");
  STD_TORCH_CHECK(y || !more_y, "fastssl: more rows of a side that is not there");
  p.depth = x.size(1);
  p.x.push_back(source_of(x, p.depth));
  if (more_x) p.x.push_back(source_of(*more_x, p.depth));
  if (y) p.y.push_back(source_of(*y, p.depth));
  if (more_y) p.y.push_back(source_of(*more_y, p.depth));
  for (const auto* side : {&p.x, &p.y})
    for (const Source& s : *side) STD_TORCH_CHECK(s.dtype == p.dtype, "fastssl: tensors of different dtypes");
  const int64_t n = p.n(), m = p.m();
  STD_TORCH_CHECK(p.depth >= 1, "fastssl: rows need at least one feature");
  STD_TORCH_CHECK(n < INT32_MAX - kBlock && m < INT32_MAX - kBlock, "fastssl: too many rows");
  const bool within = p.self_pairs();
  switch (p.positives) {
    case Positives::diagonal:
      STD_TORCH_CHECK(!within && p.y[0].n == n, "fastssl: expected the positive of every row");
      break;
    case Positives::halves: STD_TORCH_CHECK(within && n % 2 == 0, "fastssl: expected two views of one length"); break;
    case Positives::targets: STD_TORCH_CHECK(!within && ids, "fastssl: expected the targets of rows"); break;
    case Positives::classes: STD_TORCH_CHECK(within && ids, "fastssl: expected classes and one set of rows"); break;
  }
  STD_TORCH_CHECK(!symmetric || (p.positives == Positives::diagonal && m == n && p.closing == Closing::cross_entropy),
                  "fastssl: only a softmax over as many columns as rows is symmetric");
  STD_TORCH_CHECK(!p.sigmoid() || (p.positives == Positives::diagonal && m == n), "fastssl: a sigmoid is of pairs");
  STD_TORCH_CHECK((p.positives == Positives::classes) == (p.closing == Closing::sup_con),
                  "fastssl: a mean over positives is of classes");
  if (ids) {
    const bool roles = p.positives == Positives::targets || p.positives == Positives::classes;
    const int64_t* const values = ids_of(*ids, "ids", roles ? n : m);
    if (roles) {
      p.ids = values;
    } else {
      p.x_same.assign(values, values + n);
      if (!within) p.y_same.assign(values, values + m);
    }
    if (p.positives == Positives::targets)
      for (int64_t i = 0; i < n; ++i)
        STD_TORCH_CHECK(p.ids[i] == ignore_index || (p.ids[i] >= 0 && p.ids[i] < m), "fastssl: target ", p.ids[i],
                        " is outside [0, ", m, ")");
  }
  p.scale = scale_value;
  p.scale_learns = bool(scale);
  if (scale) {
    const auto v = values(*scale);
    STD_TORCH_CHECK(v.size() == 1, "fastssl: the scale must be one value");
    p.scale *= v[0];
  }
  STD_TORCH_CHECK(!p.self_pairs() || p.scale > 0 || p.scale != p.scale, "fastssl: the temperature must be positive");
  if (bias) {
    p.bias = values(*bias);
    STD_TORCH_CHECK(p.bias.size() == 1 || int64_t(p.bias.size()) == m,
                    "fastssl: bias must be one value or one per row");
  }
  return {std::move(p), Keep(keep)};
}

// Interrupted becomes what a signal's handler has raised in Python; the stable ABI passes on the text alone.
std::tuple<Tensor, Tensor, Tensor> forward(FASTSSL_PAIR_ARGUMENTS) {
  x = rows_of(x), more_x = rows_of(more_x), y = rows_of(y), more_y = rows_of(more_y);
  const Arguments a = parse(FASTSSL_PAIR_VALUES);
  const PairProblem& p = a.problem;
  const int64_t n = p.n();
  const bool none = p.reduction == Reduction::none;
  const ScalarType result = p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
  Tensor out = none ? empty({n}, result) : empty({}, result);
  Tensor stats = empty({stats_numel(p, a.keep)}, ScalarType::Double);
  const int64_t kept_size = kept_numel(p, a.keep);
  Tensor kept = new_pooled(x, {kept_size}, result);
  Buffer<double> rows(n);
  pair_loss_forward(p, a.keep, kept_size ? kept.mutable_data_ptr() : nullptr,
                    static_cast<double*>(stats.mutable_data_ptr()), rows.data());
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (none) write(out, i, rows[i]);
    total += rows[i];
  }
  if (!none) {
    const double valid = counted_rows(p, static_cast<const double*>(stats.const_data_ptr()));
    write(out, 0, p.reduction == Reduction::mean ? (valid > 0 ? total / valid : total) : total);
  }
  return {out, stats, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(Tensor grad, Tensor stats, Tensor kept,
                                                                    FASTSSL_PAIR_ARGUMENTS, int64_t needs) {
  x = rows_of(x), more_x = rows_of(more_x), y = rows_of(y), more_y = rows_of(more_y);
  const Arguments a = parse(FASTSSL_PAIR_VALUES);
  const PairProblem& p = a.problem;
  STD_TORCH_CHECK(
      stats.is_contiguous() && stats.scalar_type() == ScalarType::Double && stats.numel() == stats_numel(p, a.keep),
      "fastssl: stats do not belong to these inputs");
  STD_TORCH_CHECK(kept.is_contiguous() && kept.numel() == kept_numel(p, a.keep) &&
                      kept.scalar_type() == (p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float),
                  "fastssl: kept tiles do not belong to these inputs");
  const std::vector<double> upstream = values(grad);
  STD_TORCH_CHECK(int64_t(upstream.size()) == (p.reduction == Reduction::none ? p.n() : 1),
                  "fastssl: gradient of the wrong size");
  auto like = [&](const MaybeTensor& t, int bit) {
    return gradient_like(t, needs >> bit & 1, x.scalar_type(), a.keep == Keep::products);
  };
  const MaybeTensor maybe_x = x;
  Tensor gx = like(maybe_x, 0), g_more_x = like(more_x, 1), gy = like(y, 2), g_more_y = like(more_y, 3);
  Tensor gs = like(scale, 4), gb = like(bias, 5);
  auto target = [&](Tensor& t, const MaybeTensor& of, int bit) {
    return of && (needs >> bit & 1) ? t.mutable_data_ptr() : nullptr;
  };
  PairGradients out;
  out.x.push_back(target(gx, maybe_x, 0));
  if (more_x) out.x.push_back(target(g_more_x, more_x, 1));
  if (y) out.y.push_back(target(gy, y, 2));
  if (more_y) out.y.push_back(target(g_more_y, more_y, 3));
  double scale_grad = 0;
  std::vector<double> bias_grad(p.bias.size());
  if (scale && (needs >> 4 & 1)) out.scale = &scale_grad;
  if (bias && (needs >> 5 & 1)) out.bias = bias_grad.data();
  pair_loss_backward(p, a.keep, kept.numel() ? kept.const_data_ptr() : nullptr,
                     static_cast<const double*>(stats.const_data_ptr()), upstream.data(), out);
  if (out.scale) write(gs, 0, scale_grad * scale_value);
  if (out.bias)
    for (size_t j = 0; j < bias_grad.size(); ++j) write(gb, int64_t(j), bias_grad[j]);
  return {gx, g_more_x, gy, g_more_y, gs, gb};
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY(fastssl, m) {
  m.def("pair_loss(" FASTSSL_PAIR_SCHEMA ") -> (Tensor, Tensor, Tensor)");
  m.def("pair_loss_backward(Tensor grad, Tensor stats, Tensor kept, " FASTSSL_PAIR_SCHEMA
        ", int needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("pair_loss", TORCH_BOX(&fastssl::forward));
  m.impl("pair_loss_backward", TORCH_BOX(&fastssl::backward));
}
