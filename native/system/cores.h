// The number of cores that this process may use, and of threads that it uses by default.
#pragma once

#include <cstddef>
#include <string>

namespace saec {

// Processor time that control groups (version 1 or 2) allow this process, in cores: the smallest quota of its group
// and of the groups that contain it. Infinity if there is no quota.
// root: path before /proc and /sys/fs/cgroup, for tests with files of their own.
double quota_cores(const std::string& root);

// The number of cores that the process may run on, limited to its quota, rounded up; at least 1. The quota is read
// when the module is loaded, the affinity at every call.
size_t usable_cores();

// The default number of threads: OMP_NUM_THREADS as it was when the module was loaded (schedulers and Dask set it if
// processes share a machine), or usable_cores() if it is not set.
int default_threads();

}  // namespace saec
