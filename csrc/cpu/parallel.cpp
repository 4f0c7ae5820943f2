#include "cpu/parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace afterimage {
namespace {

// How often an idle thread looks again before it sleeps: some ten microseconds, less than waking costs.
constexpr int patience = 2000;

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

struct Job {
    void (*body)(const void*, std::int64_t);
    const void* context;
    std::int64_t parts;
    int seats;  // threads that may still join; guarded by the pool's mutex
    std::atomic<std::int64_t> next{0};
    std::atomic<int> inside{0};
    std::exception_ptr error;  // guarded by the pool's mutex

    bool open() const { return seats > 0 && next.load(std::memory_order_relaxed) < parts; }
};

class Pool {
  public:
    void run(Job& job) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (size_ < job.seats) {
                std::thread([this] { serve(); }).detach();
                ++size_;
            }
            jobs_.push_back(&job);
            posted_.fetch_add(1);
        }
        job.seats == 1 ? wake_.notify_one() : wake_.notify_all();
        work(job);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
        }
        for (int look = 0; look < patience && job.inside.load() > 0; ++look) breathe();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return job.inside.load() == 0; });
    }

  private:
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
                for (int look = 0; look < patience && posted_.load() == seen; ++look) breathe();
                lock.lock();
                wake_.wait(lock, [&] { return posted_.load() != seen; });
                continue;
            }
            Job& job = **found;
            --job.seats;
            job.inside.fetch_add(1);
            lock.unlock();
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

// Never destroyed: its threads sleep in it while the process ends. A forked child has none of them, so gets its own.
Pool* pool = nullptr;
std::once_flag made;

Pool& the_pool() {
    std::call_once(made, [] {
        pool = new Pool;
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
    });
    return *pool;
}

}  // namespace

void parallel(std::int64_t parts, int threads, void (*body)(const void*, std::int64_t), const void* context) {
    if (parts <= 1 || threads <= 1) {
        for (std::int64_t part = 0; part < parts; ++part) body(context, part);
        return;
    }
    Job job{body, context, parts, static_cast<int>(std::min<std::int64_t>(threads, parts)) - 1};
    the_pool().run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace afterimage
