#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef AFTERIMAGE_X86
#include <cpuid.h>
#endif
#if defined(AFTERIMAGE_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace afterimage {
namespace {

constexpr const char* names[] = {"baseline", "avx2", "avx512", "amx"};

#ifdef AFTERIMAGE_X86
// The register sets that the operating system saves: XCR0, bits 1 and 2 for AVX, 5 to 7 besides for AVX-512, 17 and 18
// for AMX.
unsigned saved_registers() {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Linux gives a process the tiles only when it asks, once.
bool tiles_granted() {
#if defined(AFTERIMAGE_AMX) && defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

bool has_amx(unsigned saved) {
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;  // leaf 7: 0 edx, 1 eax
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if ((edx & (amx_bf16 | amx_tile)) != (amx_bf16 | amx_tile) || (saved & 0x60000) != 0x60000) return false;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & avx512_bf16) && tiles_granted();
}

Isa best() {
    constexpr unsigned avx = bit_OSXSAVE | bit_AVX | bit_FMA;
    constexpr unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & avx) != avx) return Isa::baseline;
    const unsigned saved = saved_registers();
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & bit_AVX2)) return Isa::baseline;
    if ((saved & 0x06) != 0x06) return Isa::baseline;
    if ((ebx & avx512) != avx512 || (saved & 0xe6) != 0xe6) return Isa::avx2;
    return has_amx(saved) ? Isa::amx : Isa::avx512;
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
                                names[static_cast<int>(machine)] + "; unset it or name one of baseline, avx2, avx512, amx");
}

}  // namespace

Isa isa() {
    static const Isa chosen = choose();
    return chosen;
}

const char* isa_name() { return names[static_cast<int>(isa())]; }

}  // namespace afterimage
