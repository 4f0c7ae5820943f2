// The processor's vector instructions.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own headers (its bug 105593)
#endif
#include <immintrin.h>
