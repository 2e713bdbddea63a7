#include "isa.h"

#include <atomic>
#include <cstring>
#if defined(FASTSSL_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(FASTSSL_NEON_BF16) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(FASTSSL_NEON_BF16) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace fastssl {
namespace {

std::atomic<const IsaTable*> chosen{nullptr};

#ifdef FASTSSL_NEON_BF16
bool has_bf16_dot() {
#if defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16, which older headers do not name
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has != 0;
#else
  return false;
#endif
}
#endif

#ifdef FASTSSL_AMX
// Linux gives the tiles' 8 KiB of state to processes that ask for it, once and for all threads.
bool may_use_tiles() {
  static const bool usable = [] {
    constexpr unsigned kTile = 1u << 24, kTileBf16 = 1u << 22;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTile) || !(d & kTileBf16)) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return usable;
}
#endif

}  // namespace

std::vector<const IsaTable*> usable_isas() {
#ifdef FASTSSL_NEON
  std::vector<const IsaTable*> list{&isa_neon()};
#else
  std::vector<const IsaTable*> list{&isa_portable()};
#endif
#ifdef FASTSSL_NEON_BF16
  if (has_bf16_dot()) list.push_back(&isa_neon_bf16());
#endif
#ifdef FASTSSL_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.push_back(&isa_avx2());
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) list.push_back(&isa_avx512());
#ifdef FASTSSL_AVX512_BF16
  if (avx512 && __builtin_cpu_supports("avx512bf16")) list.push_back(&isa_avx512_bf16());
#ifdef FASTSSL_AMX
  if (list.back() == &isa_avx512_bf16() && may_use_tiles()) list.push_back(&isa_amx());
#endif
#endif
#endif
  return list;
}

// The fastest of them. Dot products of bf16 have twice the rate of fp32's multiply-adds on AMD's CPUs; on Intel's they
// have the same, and are slower with what surrounds them (0.66 times, 8,192 x 512): there rows are converted.
const IsaTable& fastest_isa() {
  const std::vector<const IsaTable*> list = usable_isas();
#if defined(FASTSSL_X86) && defined(FASTSSL_AVX512_BF16)
  if (list.back() == &isa_avx512_bf16() && __builtin_cpu_is("intel")) return isa_avx512();  // Intel's without tiles
#endif
  return *list.back();
}

const IsaTable& isa() {
  const IsaTable* table = chosen.load(std::memory_order_acquire);
  if (!table) {
    table = &fastest_isa();
    chosen.store(table, std::memory_order_release);
  }
  return *table;
}

const char* select_isa(const char* name) {
  for (const IsaTable* table : usable_isas()) {
    if (std::strcmp(table->name, name) == 0) {
      chosen.store(table, std::memory_order_release);
      return nullptr;
    }
  }
  return "not usable on this CPU, or unknown";
}

}  // namespace fastssl
