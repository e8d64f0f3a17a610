#include "upscaling/pixels.hpp"

#include <cmath>

namespace flowsr::detail {

namespace {

/// The two input pixels that an output pixel lies between, and the share of the second.
struct Neighbors {
  int64_t first, second;
  double share;
};

/// Returns bilinear weights with half-pixel centers.
vector<Neighbors> neighbors(int64_t source, int64_t target) {
  vector<Neighbors> result;
  for (int64_t i = 0; i < target; ++i) {
    const double place = (static_cast<double>(i) + 0.5) * static_cast<double>(source);
    const double center = place / static_cast<double>(target) - 0.5;
    const double most = static_cast<double>(source - 1);
    const auto first = static_cast<int64_t>(std::clamp(std::floor(center), 0.0, most));
    const double share = std::max(center - static_cast<double>(first), 0.0);
    result.push_back({first, std::min(first + 1, source - 1), share});
  }
  return result;
}

}  // namespace

int64_t reflected(int64_t position, int64_t side) {
  if (side == 1) return 0;
  const int64_t period = 2 * (side - 1);
  const int64_t at = position % period;
  return at < side ? at : period - at;
}

float luma(const float* rgb) {
  float gray = (rgb[1] - rgb[0]) * 0.587f;
  gray += (rgb[2] - rgb[0]) * 0.114f;
  return gray + rgb[0];
}

Premultiplied Premultiplied::halved() const {
  Premultiplied result{ceil_div(height, 2), ceil_div(width, 2), {}};
  const float zeros[4] = {0, 0, 0, 0};
  const auto get = [&](int64_t row, int64_t column) {
    return row < height && column < width ? at(row, column) : zeros;
  };
  result.pixels.reserve(static_cast<size_t>(result.height * result.width * 4));
  for (int64_t y = 0; y < result.height; ++y) {
    for (int64_t x = 0; x < result.width; ++x) {
      for (int c = 0; c < 4; ++c) {
        const float left = get(2 * y, 2 * x)[c] + get(2 * y + 1, 2 * x)[c];
        const float right = get(2 * y, 2 * x + 1)[c] + get(2 * y + 1, 2 * x + 1)[c];
        result.pixels.push_back((left + right) * 0.25f);
      }
    }
  }
  return result;
}

vector<float> resized(const vector<float>& plane, Size size, int64_t target, bool columns) {
  const int64_t lines = columns ? size.width : size.height;
  const vector<Neighbors> all = neighbors(columns ? size.height : size.width, target);
  vector<float> result(static_cast<size_t>(lines * target));
  for (int64_t line = 0; line < lines; ++line) {
    const auto get = [&](int64_t place) {
      const int64_t at = columns ? place * size.width + line : line * size.width + place;
      return static_cast<double>(plane[static_cast<size_t>(at)]);
    };
    for (int64_t i = 0; i < target; ++i) {
      const Neighbors& each = all[static_cast<size_t>(i)];
      const double sum = get(each.first) * (1 - each.share) + get(each.second) * each.share;
      const int64_t at = columns ? i * lines + line : line * target + i;
      result[static_cast<size_t>(at)] = static_cast<float>(sum);
    }
  }
  return result;
}

}  // namespace flowsr::detail
