// Several elements in one access of memory.
#pragma once

#include <cstdint>

namespace afterimage::cuda {

template <class T, int count>
struct alignas(sizeof(T) * count) Pack {
    T values[count];

    __device__ __forceinline__ T& operator[](int i) { return values[i]; }
    __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

// As many as one access of 16 bytes holds.
template <class T>
constexpr int widest = 16 / sizeof(T);

template <class T, int count>
__device__ __forceinline__ Pack<T, count> load(const T* from) {
    return *reinterpret_cast<const Pack<T, count>*>(from);
}

template <class T, int count>
__device__ __forceinline__ void store(T* to, const Pack<T, count>& pack) {
    *reinterpret_cast<Pack<T, count>*>(to) = pack;
}

inline bool aligned(std::uintptr_t address) { return address % 16 == 0; }

}  // namespace afterimage::cuda
