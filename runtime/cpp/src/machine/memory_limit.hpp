/// Limits of the memory of this process, as of `ulimit -v`.
#ifndef FLOWSR_MEMORY_LIMIT_HPP
#define FLOWSR_MEMORY_LIMIT_HPP

#if defined(__linux__)
#include <sys/resource.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace flowsr::detail {

/// Returns whether allocations may fail by a limit.
inline bool has_memory_limit() {
#if defined(__linux__)
  for (const auto kind : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit{};
    if (getrlimit(kind, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) return true;
  }
#endif
  return false;
}

/// Lets all threads allocate from one heap where memory is limited: each further one reserves
/// 64 MiB of the address space.
inline void use_one_heap_within_limits() {
#if defined(__GLIBC__)
  if (has_memory_limit()) mallopt(M_ARENA_MAX, 1);
#endif
}

}  // namespace flowsr::detail

#endif  // FLOWSR_MEMORY_LIMIT_HPP
