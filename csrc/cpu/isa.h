// Instruction sets: one tag each, chosen once at run time.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define AFTERIMAGE_X86
#define AFTERIMAGE_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define AFTERIMAGE_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#else  // never chosen at run time, compiled as the baseline
#define AFTERIMAGE_TARGET_AVX2
#define AFTERIMAGE_TARGET_AVX512
#endif

namespace afterimage {

struct Baseline {};
struct Avx2 {};
struct Avx512 {};

enum class Isa { baseline, avx2, avx512 };

// The best this machine (processor and operating system) runs; AFTERIMAGE_ISA=baseline|avx2|avx512 lowers it.
// Throws std::invalid_argument where the variable names something else or more than the machine has.
Isa isa();

const char* isa_name();

}  // namespace afterimage
