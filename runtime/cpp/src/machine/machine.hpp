/// The processor and the GPUs of this machine.
#ifndef FLOWSR_MACHINE_HPP
#define FLOWSR_MACHINE_HPP

#include <string>

namespace flowsr::detail {

/// Returns the processor or the GPU that a provider runs on, as the key of a self-test names it.
std::string device_name(bool on_gpu, int device);

/// Returns the compute capability of a GPU, such as "8.9"; "" without a driver or such a GPU.
std::string compute_capability(int device);

/// Returns the instruction set of this CPU, such as "cpu-x86_64-avx512f-0f1e2d3c".
std::string host_isa();

/// Names the instruction set of an architecture with the content of /proc/cpuinfo, as
/// `flowsr_runtime.backends.engines.host` does.
std::string isa_of(const std::string& architecture, const std::string& cpu_info);

}  // namespace flowsr::detail

#endif  // FLOWSR_MACHINE_HPP
