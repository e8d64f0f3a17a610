/// The CPU cores that this process may use.
#ifndef FLOWSR_CORES_HPP
#define FLOWSR_CORES_HPP

#include <string>

namespace flowsr::detail {

/// Returns the CPU cores of the affinity mask, or fewer where a cgroup has a CPU quota.
int usable_cores();

/// Returns `cores`, or fewer where a cgroup or an ancestor of it has a CPU quota, but at least 1.
/// `membership` is the file that lists the cgroups of this process, `mount` the folder where
/// the cgroup file systems are mounted; version 1 and version 2.
int cores_within_quotas(int cores, const std::string& membership, const std::string& mount);

}  // namespace flowsr::detail

#endif  // FLOWSR_CORES_HPP
