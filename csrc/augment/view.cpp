// Augmentation on one instruction set. Compiled several times, without contraction of multiply and add.
#include "view.h"

namespace fastssl {
extern const AugmentTable FASTSSL_JOIN(augment_, FASTSSL_ISA);
const AugmentTable FASTSSL_JOIN(augment_, FASTSSL_ISA) = {FASTSSL_ISA::view};
}  // namespace fastssl
