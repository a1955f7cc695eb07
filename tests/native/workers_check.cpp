// Checks of the pool of threads, as a program; tests/native/test_native_workers.py builds and runs it.
#include "system/workers.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using saec::Workers;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::exit(1);
}

void pause_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

// How often each part was done.
std::vector<int> counts(size_t parts, size_t threads) {
  std::vector<std::atomic<int>> done(parts);
  Workers::here().run(parts, threads, [&](size_t part) { ++done[part]; });
  return {done.begin(), done.end()};
}

void each_part_is_done_once() {
  for (size_t parts : {0, 1, 2, 3, 100, 5000})
    for (size_t threads : {0, 1, 2, 5})
      check(counts(parts, threads) == std::vector<int>(parts, 1), "each part is done once");
}

void ranges_make_up_the_whole() {
  for (size_t count : {0, 1, 7, 8, 9, 1000})
    for (int threads : {-1, 0, 1, 3}) {
      std::vector<std::atomic<int>> done(count);
      saec::for_shares(count, threads, [&](size_t first, size_t last) {
        check(first % 8 == 0 && first < last, "ranges start at multiples of 8");
        for (size_t i = first; i < last; ++i) ++done[i];
      });
      check(std::vector<int>(done.begin(), done.end()) == std::vector<int>(count, 1),
            "ranges make up the whole");
    }
}

// Threads that took part in slow work of many parts.
size_t threads_at_work(size_t threads, size_t parts) {
  std::mutex guard;
  std::set<std::thread::id> seen;
  Workers::here().run(parts, threads, [&](size_t) {
    pause_a_little();
    const std::lock_guard lock(guard);
    seen.insert(std::this_thread::get_id());
  });
  return seen.size();
}

void no_more_threads_work_than_are_wanted() {
  check(threads_at_work(4, 200) == 4, "four threads work");
  check(threads_at_work(2, 200) == 2, "two threads work, although there are more");
  check(threads_at_work(1, 20) == 1, "one thread works");
  check(threads_at_work(7, 2) <= 2, "no more threads work than there are parts");
  check(threads_at_work(100'000, 2000) <= Workers::kMostThreads, "there is a limit");
}

void exceptions_come_out() {
  for (size_t threads : {1, 3})
    for (size_t bad : {0, 50, 99}) {
      std::string said;
      try {
        Workers::here().run(100, threads, [&](size_t part) {
          pause_a_little();
          if (part == bad) throw std::runtime_error(std::to_string(part));
        });
      } catch (const std::runtime_error& error) {
        said = error.what();
      }
      check(said == std::to_string(bad), "the exception comes out");
      check(counts(50, threads) == std::vector<int>(50, 1), "the pool works after an exception");
    }
}

void exceptions_stop_the_work() {
  std::atomic<int> begun{0};
  try {
    Workers::here().run(100'000, 3, [&](size_t) {
      ++begun;
      throw std::runtime_error("every part");
    });
    check(false, "one exception of many comes out");
  } catch (const std::runtime_error&) {
  }
  check(begun <= 3, "parts that have not started are left out");
}

void calls_inside_work_are_done() {
  std::vector<std::atomic<int>> done(40 * 30);
  Workers::here().run(40, 3, [&](size_t outer) {
    Workers::here().run(30, 3, [&](size_t inner) { ++done[outer * 30 + inner]; });
  });
  check(std::vector<int>(done.begin(), done.end()) == std::vector<int>(1200, 1),
        "calls inside work are done");
}

void callers_at_once_are_served() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([] {
      for (int i = 0; i < 50; ++i)
        check(counts(97, 3) == std::vector<int>(97, 1), "callers at once are served");
    });
  for (std::thread& caller : callers) caller.join();
}

double processor_seconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Three threads wait for the fourth during a call, all of them after it.
void threads_that_wait_take_no_time() {
  const double before = processor_seconds();
  Workers::here().run(4, 4, [](size_t part) {
    std::this_thread::sleep_for(std::chrono::milliseconds(part ? 1 : 300));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  check(processor_seconds() - before < 0.1, "threads that wait take no time");
}

void a_forked_child_has_a_pool() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    _exit(threads_at_work(3, 100) == 3 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(status == 0, "a forked child has a pool");
  each_part_is_done_once();
}

}  // namespace

// forks: whether to fork, too; thread sanitizers do not follow a child.
int main(int count, char** arguments) {
  each_part_is_done_once();
  ranges_make_up_the_whole();
  no_more_threads_work_than_are_wanted();
  exceptions_come_out();
  exceptions_stop_the_work();
  calls_inside_work_are_done();
  callers_at_once_are_served();
  threads_that_wait_take_no_time();
  if (count > 1 && std::strcmp(arguments[1], "forks") == 0) a_forked_child_has_a_pool();
  std::puts("done");
}
