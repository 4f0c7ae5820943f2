// Hammers csrc/cpu/parallel.cpp in the scenario that the argument names. Exit codes: 1 and a line about it where
// something is wrong, 77 where the system does not let the scenario happen.
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/parallel.h"

using afterimage::parallel;

namespace {

void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "expected: %s\n", what);
    std::_Exit(1);
}

// Each part writes its own plain slot: a part that is skipped, done twice or seen too early shows, here or in tsan.
void once(std::int64_t parts, int threads) {
    std::vector<std::int64_t> slots(parts, 0);
    parallel(parts, threads, [&](std::int64_t part) { slots[part] += part + 1; });
    for (std::int64_t part = 0; part < parts; ++part) expect(slots[part] == part + 1, "each part once");
}

void many_callers(int callers, int calls) {
    std::vector<std::thread> others;
    for (int caller = 0; caller < callers; ++caller)
        others.emplace_back([=] {
            for (int call = 0; call < calls; ++call) once(1 + (call + caller) % 9, 1 + (call * 7 + caller) % 5);
        });
    for (std::thread& other : others) other.join();
}

void pauses() {  // workers fall asleep in between, or are about to
    for (int call = 0; call < 300; ++call) {
        once(4, 4);
        std::this_thread::sleep_for(std::chrono::microseconds(call));
    }
}

void exceptions() {
    for (int call = 0; call < 500; ++call) {
        std::atomic<int> calls{0};
        try {
            parallel(16, 4, [&](std::int64_t part) {
                ++calls;
                if (part % 5 == 3) throw std::runtime_error("part " + std::to_string(part));
            });
            expect(false, "the exception is thrown on");
        } catch (const std::runtime_error& error) {
            expect(std::strncmp(error.what(), "part ", 5) == 0, "the exception of a part");
        }
        expect(calls <= 16, "no part after the last");
        once(5, 4);
    }
}

void nested() {
    for (int call = 0; call < 100; ++call) {
        std::vector<std::int64_t> sums(6, 0);
        parallel(6, 4, [&](std::int64_t outer) {
            std::vector<std::int64_t> slots(5, 0);
            parallel(5, 3, [&](std::int64_t inner) { slots[inner] = outer * inner; });
            sums[outer] = std::accumulate(slots.begin(), slots.end(), std::int64_t{0});
        });
        for (std::int64_t outer = 0; outer < 6; ++outer) expect(sums[outer] == 10 * outer, "the inner sums");
    }
}

void child_works() {
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);  // a child that hangs is a child that fails
        once(8, 4);
        many_callers(2, 20);
        _exit(0);
    }
    int status = 0;
    expect(waitpid(child, &status, 0) == child && status == 0, "the forked child works");
}

void forks() {  // while other threads call and the workers are anywhere
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    for (int caller = 0; caller < 3; ++caller)
        others.emplace_back([&] { while (!stop) once(7, 4); });
    for (int number = 0; number < 60; ++number) child_works();
    stop = true;
    for (std::thread& other : others) other.join();
}

void rounding() {  // the caller's floating-point modes hold in every part, whoever made the thread
    for (int call = 0; call < 200; ++call)
        for (const int mode : {FE_UPWARD, FE_TONEAREST, FE_DOWNWARD}) {
            std::fesetround(mode);
            parallel(8, 4, [&](std::int64_t) {
                expect(std::fegetround() == mode, "the caller's rounding");
                std::this_thread::sleep_for(std::chrono::microseconds(5));  // leaves parts for the others
            });
        }
}

void signals() {  // one that the program blocks in its own threads kills no process by way of ours
    once(8, 4);
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &awaited, nullptr);
    kill(getpid(), SIGUSR1);
    int received = 0;
    expect(sigwait(&awaited, &received) == 0 && received == SIGUSR1, "the signal reaches the thread that waits for it");
}

void refused() {  // the system starts no more threads
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0)) std::_Exit(77);
    try {
        std::thread([] {}).join();
        std::_Exit(77);
    } catch (const std::system_error&) {
    }
    for (int call = 0; call < 20; ++call) once(9, 4);
}

void exits() {  // the process ends while workers sleep, spin and work
    for (int number = 0; number < 40; ++number) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            once(8, 4);
            std::thread([] { for (;;) once(6, 4); }).detach();
            std::this_thread::sleep_for(std::chrono::microseconds(50 * number));
            std::exit(0);
        }
        int status = 0;
        expect(waitpid(child, &status, 0) == child && status == 0, "a clean exit");
    }
}

}  // namespace

int main(int, char** arguments) {
    const std::string scenario = arguments[1];
    if (scenario == "callers") many_callers(6, 10000);
    else if (scenario == "pauses") pauses();
    else if (scenario == "exceptions") exceptions();
    else if (scenario == "nested") nested();
    else if (scenario == "forks") forks();
    else if (scenario == "rounding") rounding();
    else if (scenario == "signals") signals();
    else if (scenario == "refused") refused();
    else if (scenario == "exits") exits();
    else expect(false, "the name of a scenario");
    std::puts("done");
}
