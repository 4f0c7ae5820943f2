#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace afterimage {
namespace {

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

Isa best() {
#if defined(__x86_64__) && defined(__GNUC__)
    // The builtins ask the processor, and XGETBV whether the operating system saves the wide registers.
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return Isa::avx512;
    return Isa::avx2;
#else
    return Isa::baseline;
#endif
}

Isa choose() {
    const Isa machine = best();
    const char* asked = std::getenv("AFTERIMAGE_ISA");
    if (!asked || !*asked) return machine;
    for (int level = 0; level <= static_cast<int>(machine); ++level)
        if (asked == std::string(names[level])) return static_cast<Isa>(level);
    throw std::invalid_argument("AFTERIMAGE_ISA is '" + std::string(asked) + "', this machine has baseline to " +
                                names[static_cast<int>(machine)] + "; unset it or name one of baseline, avx2, avx512");
}

}  // namespace

Isa isa() {
    static const Isa chosen = choose();
    return chosen;
}

const char* isa_name() { return names[static_cast<int>(isa())]; }

}  // namespace afterimage
