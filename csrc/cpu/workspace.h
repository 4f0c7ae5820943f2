// Scratch memory that a thread keeps from one call to the next.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace afterimage {

// At least `bytes` bytes of the calling thread's own, on a page boundary; what they hold is open, and the next call
// on this thread may take them back.
inline void* workspace(std::size_t bytes) {
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    constexpr std::size_t page = 4096;
    static thread_local std::unique_ptr<void, Free> memory;
    static thread_local std::size_t size = 0;
    if (size < bytes) {
        memory.reset();
        size = 0;
        memory.reset(std::aligned_alloc(page, (bytes + page - 1) / page * page));
        if (!memory) throw std::bad_alloc();
        size = bytes;
    }
    return memory.get();
}

}  // namespace afterimage
