#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef AFTERIMAGE_X86
#include <cpuid.h>
#endif

namespace afterimage {
namespace {

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

#ifdef AFTERIMAGE_X86
// The register sets that the operating system saves: XCR0, bits 1 and 2 for AVX, 5 to 7 besides for AVX-512.
unsigned saved_registers() {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

Isa best() {
    constexpr unsigned avx = bit_OSXSAVE | bit_AVX | bit_FMA;
    constexpr unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & avx) != avx) return Isa::baseline;
    const unsigned saved = saved_registers();
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & bit_AVX2)) return Isa::baseline;
    if ((saved & 0x06) != 0x06) return Isa::baseline;
    return (ebx & avx512) == avx512 && (saved & 0xe6) == 0xe6 ? Isa::avx512 : Isa::avx2;
}
#else
Isa best() { return Isa::baseline; }
#endif

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
