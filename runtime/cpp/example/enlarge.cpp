// Upscale a gradient by 2.7 with a bundle, and print its size and mean.

#include <flowsr/flowsr.hpp>

#include <cstdio>
#include <numeric>
#include <vector>

int main(int count, char** words) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s BUNDLE\n", words[0]);
    return FLOWSR_USAGE;
  }
  try {
    const flowsr::Upscaler upscaler = flowsr::Upscaler::open(words[1]);
    const flowsr::Size source{12, 16};
    std::vector<std::uint8_t> image(12 * 16 * 3);
    for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i / 3);

    const flowsr::Target target(flowsr::Scale("2.7"));
    const flowsr::Size size = upscaler.target(source, target);
    std::vector<std::uint8_t> result(static_cast<std::size_t>(size.height * size.width * 3));
    upscaler.upscale(image.data(), source, target, result.data());

    const long total = std::accumulate(result.begin(), result.end(), 0L);
    std::printf("%ldx%ld %.3f\n", static_cast<long>(size.height), static_cast<long>(size.width),
                static_cast<double>(total) / static_cast<double>(result.size()));
    return FLOWSR_DONE;
  } catch (const flowsr::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
