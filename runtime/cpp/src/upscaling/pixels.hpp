/// Pixels and channels: checked, padded, laid out as the graph takes them, and rounded once.
#ifndef FLOWSR_PIXELS_HPP
#define FLOWSR_PIXELS_HPP

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "upscaling/geometry.hpp"
#include "backends/session.hpp"

namespace flowsr::detail {

/// Returns the pixel of a side that lies at a position, reflected beyond the end.
int64_t reflected(int64_t position, int64_t side);

/// Returns the gray of a color (ITU-R BT.601); that of gray is exact.
float luma(const float* rgb);

/// Resizes the rows of a plane, or its columns, by bilinear interpolation with half-pixel
/// centers.
vector<float> resized(const vector<float>& plane, Size size, int64_t target, bool columns);

constexpr float full_scale(std::uint8_t) { return 255.0f; }
constexpr float full_scale(std::uint16_t) { return 65535.0f; }

inline float in_range(std::uint8_t value) { return static_cast<float>(value) / full_scale(value); }
inline float in_range(std::uint16_t value) { return static_cast<float>(value) / full_scale(value); }
inline float in_range(float value) { return value; }

/// Refuses an image that the graph or the request does not support.
template <class T>
void check_pixels(const T* image, int64_t count, const Manifest& manifest,
                  const Request& request) {
  constexpr bool eight_bit = sizeof(T) == 1;
  if (manifest.eight_bit && !eight_bit) {
    throw Error(Code::usage, "this bundle's graph takes uint8 images; give uint8, or export a "
                             "bundle with io float32");
  }
  if (manifest.eight_bit && request.truncate) {
    throw Error(Code::usage, "truncate needs a graph of float32 images, this one rounds by "
                             "itself; export a bundle with io float32");
  }
  if (request.truncate && !eight_bit) {
    throw Error(Code::usage, "truncate needs a uint8 image");
  }
  if constexpr (std::is_same_v<T, float>) {
    for (int64_t i = 0; i < count; ++i) {
      if (!(image[i] >= 0 && image[i] <= 1)) {
        throw Error(Code::usage, "float image must lie in [0, 1], got a value of " +
                                     short_text(static_cast<double>(image[i])));
      }
    }
  } else if (!request.clamp) {
    throw Error(Code::usage, "an image that is not clamped must be float");
  }
  (void)image, (void)count;
}

/// Copies a tile of an image to planes of channels, reflected beyond its end.
template <class T, class Convert>
auto planes(const T* image, Size size, const Extent& rows, const Extent& columns,
            Convert convert) {
  vector<decltype(convert(*image))> result(
      static_cast<size_t>(3 * rows.lr_size() * columns.lr_size()));
  auto out = result.begin();
  for (int channel = 0; channel < 3; ++channel) {
    for (int64_t y = rows.lr_begin; y < rows.lr_end; ++y) {
      const T* row = image + reflected(y, size.height) * size.width * 3 + channel;
      for (int64_t x = columns.lr_begin; x < columns.lr_end; ++x) {
        *out++ = convert(row[reflected(x, size.width) * 3]);
      }
    }
  }
  return result;
}

inline float clamped(float value, bool clamp) {
  return clamp ? std::min(std::max(value, 0.0f), 1.0f) : value;
}

template <class T>
T stored(float value, const Request& request) {
  if constexpr (std::is_same_v<T, float>) {
    return clamped(value, request.clamp);
  } else {
    const float wide = clamped(value, true) * full_scale(T{});
    return static_cast<T>(request.truncate ? wide : wide + 0.5f);
  }
}

/// Colors multiplied by alpha, and alpha: four floats a pixel.
struct Premultiplied {
  int64_t height, width;
  vector<float> pixels;

  const float* at(int64_t row, int64_t column) const {
    return pixels.data() + (row * width + column) * 4;
  }

  /// Sums of 2x2 blocks over four; what lies beyond the edge counts as 0.
  Premultiplied halved() const;
};

/// Gives fully transparent pixels the color of what is visible near them: their own colors
/// are arbitrary, and a model would let them bleed into visible edges.
template <class T>
void fill_hidden(vector<T>& rgb, const vector<T>& alpha, Size size) {
  const auto hidden = std::count(alpha.begin(), alpha.end(), T{0});
  if (hidden == 0 || hidden == static_cast<std::ptrdiff_t>(alpha.size())) return;
  vector<Premultiplied> levels = {{size.height, size.width, {}}};
  for (size_t i = 0; i < alpha.size(); ++i) {
    const float weight = in_range(alpha[i]);
    vector<float>& pixels = levels[0].pixels;
    for (size_t c = 0; c < 3; ++c) pixels.push_back(in_range(rgb[3 * i + c]) * weight);
    pixels.push_back(weight);
  }
  while (levels.back().height > 1 || levels.back().width > 1) {
    levels.push_back(levels.back().halved());
  }
  for (int64_t y = 0; y < size.height; ++y) {
    for (int64_t x = 0; x < size.width; ++x) {
      const auto place = static_cast<size_t>(y * size.width + x);
      if (alpha[place] != 0) continue;
      size_t level = 1;  // the smallest block that holds anything visible
      while (!(levels[level].at(y >> level, x >> level)[3] > 0)) ++level;
      const float* mean = levels[level].at(y >> level, x >> level);
      for (size_t c = 0; c < 3; ++c) {
        const float color = std::min(mean[c] / mean[3], 1.0f);
        rgb[3 * place + c] = stored<T>(color, Request());
      }
    }
  }
}

/// Resizes alpha bilinearly into the last channel of an image: rows, then columns.
template <class T>
void resize_alpha(const vector<T>& alpha, Size source, T* result, Size target, int channels) {
  const auto put = [&](size_t pixel, T value) {
    const auto step = static_cast<size_t>(channels);
    result[pixel * step + step - 1] = value;
  };
  if (target == source) {
    for (size_t i = 0; i < alpha.size(); ++i) put(i, alpha[i]);
    return;
  }
  vector<float> plane;
  for (const T value : alpha) plane.push_back(in_range(value));
  plane = resized(plane, source, target.width, false);
  plane = resized(plane, {source.height, target.width}, target.height, true);
  const Request request;
  for (size_t i = 0; i < plane.size(); ++i) put(i, stored<T>(plane[i], request));
}

/// The channels of an image: colors for the model, and alpha.
template <class T>
struct Channels {
  int count;                // of the result
  const T* rgb;             // input of the model
  vector<T> copy, alpha;    // where `rgb` lies, if it is not the picture itself

  Channels(const T* image, Size size, int channels) : count(channels), rgb(image) {
    if (channels == 3) return;
    const auto pixels = static_cast<size_t>(size.height * size.width);
    const auto step = static_cast<size_t>(channels);
    copy.resize(pixels * 3);
    for (size_t i = 0; i < pixels; ++i) {
      const T* pixel = image + i * step;
      for (size_t c = 0; c < 3; ++c) copy[3 * i + c] = pixel[gray() ? 0 : c];
      if (step % 2 == 0) alpha.push_back(pixel[step - 1]);
    }
    if (!alpha.empty()) fill_hidden(copy, alpha, size);
    rgb = copy.data();
  }
  Channels(const Channels&) = delete;
  Channels& operator=(const Channels&) = delete;

  bool gray() const { return count < 3; }
};

}  // namespace flowsr::detail

#endif  // FLOWSR_PIXELS_HPP
