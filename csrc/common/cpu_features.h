// Which of the library's instruction sets this processor runs.
#pragma once

#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tla {

// The matrix unit with integers of 8 bits, which Linux has to be asked for once a process.
inline bool cpu_runs_amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kAmxTile | kAmxInt8)) != (kAmxTile | kAmxInt8)) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

inline bool cpu_runs(std::string_view isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // Compilers differ in whether they know "f16c" by name.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29)) != 0;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  if (isa == "avx2" || isa == "avx2_int16") return avx2;
  if (isa == "amx") return cpu_runs("avx512_vnni") && cpu_runs_amx();
  if (isa == "avx512_vnni") {
    constexpr unsigned kAvx512Vnni = 1u << 11;
    return cpu_runs("avx512") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & kAvx512Vnni) != 0;
  }
  if (isa == "avx512")
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == "plain";
}

}  // namespace tla
