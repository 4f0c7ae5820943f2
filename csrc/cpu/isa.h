// Instruction sets: one tag each, chosen once at run time.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define AFTERIMAGE_X86
#define AFTERIMAGE_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define AFTERIMAGE_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#if __has_include(<amxbf16intrin.h>) || (defined(__clang__) && __has_include(<amxintrin.h>))
#define AFTERIMAGE_AMX
#define AFTERIMAGE_TARGET_AMX \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))
#endif
#else  // never chosen at run time, compiled as the baseline
#define AFTERIMAGE_TARGET_AVX2
#define AFTERIMAGE_TARGET_AVX512
#endif

namespace afterimage {

struct Baseline {};
struct Avx2 {};
struct Avx512 {};

// In the order of what they hold: amx is avx512 with bfloat16 and matrix tiles.
enum class Isa { baseline, avx2, avx512, amx };

// The best this machine (processor and operating system) runs; AFTERIMAGE_ISA=baseline|avx2|avx512|amx lowers it.
// Throws std::invalid_argument where the variable names something else or more than the machine has.
Isa isa();

const char* isa_name();

}  // namespace afterimage
