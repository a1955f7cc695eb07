// How many cores this process may use, and how many threads it uses by default.
#pragma once

#include <cstddef>
#include <string>

namespace saec {

// Processor time that control groups (version 1 or 2) allow this process, in cores: the least quota of
// its group and of the groups around that. Infinity if there is no quota.
// root: in front of /proc and /sys/fs/cgroup; tests have files of their own there.
double quota_cores(const std::string& root);

// Cores that the process may run on, but no more than its quota, rounded up; at least 1. The quota is
// read when the module is loaded, affinity at every call.
size_t usable_cores();

// Threads of a call that does not give a number: OMP_NUM_THREADS, which schedulers and Dask set where
// processes share a machine, as it was when the module was loaded; usable_cores() if it is not set.
int default_threads();

}  // namespace saec
