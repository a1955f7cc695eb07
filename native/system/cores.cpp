#include "system/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>

#include "system/workers.h"

namespace saec {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// The number at the start of a file; 0 or less if there is none.
double number_in(const std::string& path) {
  double number = 0;
  std::ifstream(path) >> number;
  return number;
}

// Version 2: one file with the quota, or "max", and the period, both in microseconds.
double unified_quota(const std::string& group) {
  double quota = 0, period = 0;
  std::ifstream(group + "/cpu.max") >> quota >> period;
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

// Version 1: one file for the quota and one for the period; a quota of -1 means no quota.
double separate_quota(const std::string& group) {
  const double quota = number_in(group + "/cpu.cfs_quota_us");
  const double period = number_in(group + "/cpu.cfs_period_us");
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

// The smallest quota of the group at `path` below `mount` and of all groups that contain it. Inside a container the
// path may be that of the host: then only the mount itself is found, which is the container's own group.
double least_quota(const std::string& mount, std::string path,
                   double (*quota)(const std::string& group)) {
  double least = quota(mount);
  for (; path.size() > 1 && path[0] == '/'; path.resize(path.rfind('/'))) least = std::min(least, quota(mount + path));
  return least;
}

bool names_cpu(const std::string& controllers) {
  return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

// The value of OMP_NUM_THREADS; 0 if it is not set or not a number. It may be a list with a number for each level of
// nesting, of which the first counts.
int threads_wanted() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  const long number = text ? std::strtol(text, nullptr, 10) : 0;
  return static_cast<int>(std::clamp(number, 0L, static_cast<long>(Workers::kMostThreads)));
}

const double quota_at_start = quota_cores("");
const int wanted_at_start = threads_wanted();

size_t affine_cores() {
#ifdef __linux__
  cpu_set_t cores[16];  // 16,384 of them
  if (sched_getaffinity(0, sizeof cores, cores) == 0)
    return static_cast<size_t>(CPU_COUNT_S(sizeof cores, cores));
#endif
  return std::thread::hardware_concurrency();
}

}  // namespace

double quota_cores(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  const std::string mount = root + "/sys/fs/cgroup";
  double least = kUnlimited;
  for (std::string line; std::getline(groups, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) least = std::min(least, least_quota(mount, path, unified_quota));
    if (!names_cpu(controllers)) continue;
    for (const std::string& name : {controllers, std::string("cpu")})
      least = std::min(least, least_quota(mount + "/" + name, path, separate_quota));
  }
  return least;
}

size_t usable_cores() {
  const double most = std::min(static_cast<double>(affine_cores()), std::ceil(quota_at_start));
  return static_cast<size_t>(std::max(most, 1.0));
}

int default_threads() {
  if (wanted_at_start > 0) return wanted_at_start;
  return static_cast<int>(std::min(usable_cores(), Workers::kMostThreads));
}

}  // namespace saec
