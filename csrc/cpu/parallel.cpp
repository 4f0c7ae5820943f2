#include "cpu/parallel.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace afterimage {
namespace {

// How long a thread that waits looks again before it sleeps: about what waking one costs.
constexpr std::chrono::microseconds patience{50};

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Looks until `ready` or out of patience. Where cores are scarce, what is waited for may need this very core, so it is
// offered: a caller next to a worker that kept it took 57 microseconds for a call of 2.
template <class Ready>
void look(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + patience;
    do {
        for (int times = 0; times < 16; ++times) {
            if (ready()) return;
            breathe();
        }
        std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < end);
}

// Lies on its caller's stack: whoever leaves it last has to do so before the caller may go on.
struct Job {
    Job(std::int64_t parts, int seats, void (*body)(const void*, std::int64_t), const void* context)
        : body(body), context(context), parts(parts), seats(seats) {
        std::fegetenv(&modes);
    }

    bool open() const { return seats > 0 && next.load(std::memory_order_relaxed) < parts; }

    void (*body)(const void*, std::int64_t);
    const void* context;
    std::int64_t parts;
    int seats;  // threads that may still join; guarded by the pool's mutex
    std::fenv_t modes;  // rounding, and whether subnormal numbers are zero, as the caller has set them
    std::atomic<std::int64_t> next{0};
    std::atomic<int> inside{0};  // falls under the pool's mutex only
    std::exception_ptr error;  // guarded by the pool's mutex
};

class Pool {
  public:
    void run(Job& job) {
        const int seats = job.seats;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            grow(seats);
            jobs_.push_back(&job);
            posted_.fetch_add(1);
        }
        seats == 1 ? wake_.notify_one() : wake_.notify_all();
        work(job);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
        }
        look([&] { return job.inside.load() == 0; });
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return job.inside.load() == 0; });
    }

  private:
    // Signals stay with the threads that the program made. Where the system starts no more threads, those that are
    // there and the caller do the work.
    void grow(int threads) {
        if (size_ >= threads) return;
        sigset_t all, before;
        sigfillset(&all);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            for (; size_ < threads; ++size_) std::thread([this] { serve(); }).detach();
        } catch (const std::exception&) {
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void work(Job& job) {
        for (std::int64_t part; (part = job.next.fetch_add(1)) < job.parts;) {
            try {
                job.body(job.context, part);
            } catch (...) {
                std::lock_guard<std::mutex> lock(mutex_);
                if (!job.error) job.error = std::current_exception();
                job.next.store(job.parts);
            }
        }
    }

    [[noreturn]] void serve() {
        for (;;) {
            const unsigned seen = posted_.load();
            std::unique_lock<std::mutex> lock(mutex_);
            const auto found = std::find_if(jobs_.begin(), jobs_.end(), [](Job* job) { return job->open(); });
            if (found == jobs_.end()) {
                lock.unlock();
                look([&] { return posted_.load() != seen; });
                lock.lock();
                wake_.wait(lock, [&] { return posted_.load() != seen; });
                continue;
            }
            Job& job = **found;
            --job.seats;
            job.inside.fetch_add(1);
            lock.unlock();
            std::fesetenv(&job.modes);
            work(job);
            lock.lock();  // before the count falls: the job ends with its caller's stack
            if (job.inside.fetch_sub(1) == 1) done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::deque<Job*> jobs_;
    std::atomic<unsigned> posted_{0};
    int size_ = 0;
};

// Never destroyed: its threads sleep in it while the process ends. A forked child has none of them, so it makes its
// own; what the parent's held at that moment, its mutex too, is not looked at again.
std::atomic<Pool*> pool{nullptr};
const int forgotten_by_children = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });

Pool& the_pool() {
    Pool* found = pool.load();
    if (found) return *found;
    Pool* made = new Pool;
    if (pool.compare_exchange_strong(found, made)) return *made;
    delete made;  // another thread was faster
    return *found;
}

}  // namespace

void parallel(std::int64_t parts, int threads, void (*body)(const void*, std::int64_t), const void* context) {
    if (parts <= 1 || threads <= 1) {
        for (std::int64_t part = 0; part < parts; ++part) body(context, part);
        return;
    }
    Job job(parts, static_cast<int>(std::min<std::int64_t>(threads, parts)) - 1, body, context);
    the_pool().run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace afterimage
