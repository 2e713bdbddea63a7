// An instruction set that adds products of bf16 to another one, whose other kernels it shares.
#include "core/isa.h"
#include "pair/backward.h"
#include "pair/gradient_epilogue.h"
#include "simd/pack.h"

namespace fastssl {

const IsaTable& FASTSSL_JOIN(isa_, FASTSSL_ISA)() {
  using namespace FASTSSL_ISA;
#ifdef FASTSSL_TILES
  using K = FASTSSL_ISA::Bf16Tiles;
#else
  using K = FASTSSL_ISA::Bf16Pairs;
#endif
  static const PairTable<float> pairs = {
      {forward<K, FASTSSL_ISA::Bounded>, forward_running_max<K>, forward<K, FASTSSL_ISA::Sigmoid>},
      {backward<K, false>, backward<K, true>, backward<K, false>},
      pack_bf16<K>,
      FASTSSL_ISA::gradient_epilogue<float>,
      K::kTiles};
  static const IsaTable table = [] {
    IsaTable extended = FASTSSL_JOIN(isa_, FASTSSL_BASE)();
    extended.name = FASTSSL_TEXT(FASTSSL_ISA);
    extended.pairs_bf16 = &pairs;
    return extended;
  }();
  return table;
}

}  // namespace fastssl
