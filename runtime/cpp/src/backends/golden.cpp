#include "backends/golden.hpp"

#include <array>
#include <cstdlib>
#include <cstring>

#include "bundle/json.hpp"

namespace flowsr::detail {

namespace {

constexpr const char* kCase = "golden/case.json";
constexpr const char* kInput = "golden/input.png";
constexpr const char* kOutput = "golden/output.npy";

[[noreturn]] void refuse_golden(const std::string& message) {
  throw Error(Code::bundle, message);
}

std::size_t byte_at(const std::string& data, std::size_t at) {
  if (at >= data.size()) refuse_golden(std::string(kInput) + " is cut off");
  return static_cast<unsigned char>(data[at]);
}

/// Decompresses DEFLATE (RFC 1951), so that the library needs no other one for a small picture.
class Inflater {
 public:
  Inflater(const std::string& data, std::size_t at, std::size_t most)
      : data_(data), at_(at), most_(most) {}

  std::string run() {
    bool last = false;
    while (!last) {
      last = bits(1) == 1;
      const std::size_t kind = bits(2);
      if (kind == 0) {
        stored();
      } else if (kind == 1) {
        compressed(fixed_lengths(), Huffman(std::vector<int>(30, 5)));
      } else if (kind == 2) {
        dynamic();
      } else {
        broken();
      }
    }
    return std::move(out_);
  }

 private:
  /// A canonical Huffman code.
  struct Huffman {
    std::array<int, 16> counts{};
    std::vector<int> symbols;
    explicit Huffman(const std::vector<int>& lengths) : symbols(lengths.size()) {
      for (const int length : lengths) ++counts[static_cast<std::size_t>(length)];
      counts[0] = 0;
      std::array<int, 16> next{};
      for (std::size_t i = 1; i < 15; ++i) next[i + 1] = next[i] + counts[i];
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        const auto length = static_cast<std::size_t>(lengths[i]);
        if (length > 0) symbols[static_cast<std::size_t>(next[length]++)] = static_cast<int>(i);
      }
    }
  };

  [[noreturn]] static void broken() { refuse_golden(std::string(kInput) + " is damaged"); }

  std::size_t bits(int count) {
    while (held_ < count) {
      buffer_ |= byte_at(data_, at_++) << held_;
      held_ += 8;
    }
    const std::size_t value = buffer_ & ((std::size_t{1} << count) - 1);
    buffer_ >>= count;
    held_ -= count;
    return value;
  }

  std::size_t symbol(const Huffman& code) {
    int value = 0, first = 0, index = 0;
    for (std::size_t length = 1; length < 16; ++length) {
      value |= static_cast<int>(bits(1));
      const int count = code.counts[length];
      if (value - count < first) {
        return static_cast<std::size_t>(code.symbols[static_cast<std::size_t>(index + value - first)]);
      }
      index += count;
      first = (first + count) << 1;
      value <<= 1;
    }
    broken();
  }

  void put(char byte) {
    if (out_.size() >= most_) broken();
    out_ += byte;
  }

  void stored() {
    buffer_ = 0, held_ = 0;
    const std::size_t length = byte_at(data_, at_) | byte_at(data_, at_ + 1) << 8;
    at_ += 4;
    for (std::size_t i = 0; i < length; ++i) put(static_cast<char>(byte_at(data_, at_++)));
  }

  static Huffman fixed_lengths() {
    std::vector<int> lengths(288, 8);
    for (std::size_t i = 144; i < 256; ++i) lengths[i] = 9;
    for (std::size_t i = 256; i < 280; ++i) lengths[i] = 7;
    return Huffman(lengths);
  }

  void dynamic() {
    static constexpr std::array<std::size_t, 19> kOrder = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                           11, 4,  12, 3, 13, 2, 14, 1, 15};
    const std::size_t literals = bits(5) + 257, distances = bits(5) + 1, count = bits(4) + 4;
    std::vector<int> lengths(19, 0);
    for (std::size_t i = 0; i < count; ++i) lengths[kOrder[i]] = static_cast<int>(bits(3));
    const Huffman code(lengths);
    std::vector<int> all;
    while (all.size() < literals + distances) {
      const std::size_t next = symbol(code);
      if (next < 16) {
        all.push_back(static_cast<int>(next));
        continue;
      }
      if (next == 16 && all.empty()) broken();
      const int value = next == 16 ? all.back() : 0;
      const std::size_t times = next == 16 ? bits(2) + 3 : next == 17 ? bits(3) + 3 : bits(7) + 11;
      all.insert(all.end(), times, value);
    }
    if (all.size() > literals + distances) broken();
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(literals);
    compressed(Huffman({all.begin(), middle}), Huffman({middle, all.end()}));
  }

  void compressed(const Huffman& literals, const Huffman& distances) {
    static constexpr std::array<std::size_t, 29> kLengths = {
        3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
        31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr std::array<int, 29> kLengthBits = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1,
                                                        1, 1, 2, 2, 2, 2, 3, 3, 3, 3,
                                                        4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr std::array<std::size_t, 30> kDistances = {
        1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
        193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (std::size_t next = symbol(literals); next != 256; next = symbol(literals)) {
      if (next < 256) {
        put(static_cast<char>(next));
        continue;
      }
      if (next - 257 >= kLengths.size()) broken();
      const std::size_t length = kLengths[next - 257] + bits(kLengthBits[next - 257]);
      const std::size_t place = symbol(distances);
      if (place >= kDistances.size()) broken();
      const int extra = place < 4 ? 0 : static_cast<int>(place / 2) - 1;
      const std::size_t distance = kDistances[place] + bits(extra);
      if (distance > out_.size()) broken();
      for (std::size_t i = 0; i < length; ++i) put(out_[out_.size() - distance]);
    }
  }

  const std::string& data_;
  std::size_t at_, most_;
  std::size_t buffer_ = 0;
  int held_ = 0;
  std::string out_;
};

std::size_t word_at(const std::string& data, std::size_t at) {
  return byte_at(data, at) << 24 | byte_at(data, at + 1) << 16 | byte_at(data, at + 2) << 8 |
         byte_at(data, at + 3);
}

std::size_t paeth(std::size_t left, std::size_t above, std::size_t corner) {
  const auto a = static_cast<int>(left), b = static_cast<int>(above), c = static_cast<int>(corner);
  const int from_a = std::abs(b - c), from_b = std::abs(a - c), from_c = std::abs(a + b - 2 * c);
  if (from_a <= from_b && from_a <= from_c) return left;
  return from_b <= from_c ? above : corner;
}

/// Reads a PNG of 8 bits and three channels, not interlaced, whose hash was checked.
void read_picture(const std::string& png, GoldenPair& pair) {
  if (png.compare(0, 8, "\x89PNG\r\n\x1a\n") != 0 || png.compare(12, 4, "IHDR") != 0) {
    refuse_golden(std::string(kInput) + " is not a PNG");
  }
  const std::size_t width = word_at(png, 16), height = word_at(png, 20);
  const bool plain = byte_at(png, 24) == 8 && byte_at(png, 25) == 2 && byte_at(png, 28) == 0;
  if (!plain || width < 1 || height < 1 || width > 4096 || height > 4096) {
    refuse_golden(std::string(kInput) + " is not a small RGB picture of 8 bits");
  }
  std::string packed;
  for (std::size_t at = 8; at + 12 <= png.size();) {
    const std::size_t length = word_at(png, at);
    if (length > png.size() - at - 12) refuse_golden(std::string(kInput) + " is cut off");
    if (png.compare(at + 4, 4, "IDAT") == 0) packed.append(png, at + 8, length);
    at += length + 12;
  }
  const std::size_t stride = 3 * width;
  const std::string rows = Inflater(packed, 2, height * (stride + 1)).run();
  if (rows.size() != height * (stride + 1)) refuse_golden(std::string(kInput) + " is cut off");
  pair.source = {static_cast<std::int64_t>(height), static_cast<std::int64_t>(width)};
  pair.picture.resize(height * stride);
  for (std::size_t y = 0; y < height; ++y) {
    const std::size_t filter = byte_at(rows, y * (stride + 1));
    for (std::size_t x = 0; x < stride; ++x) {
      std::uint8_t* pixel = pair.picture.data() + y * stride + x;
      const std::size_t left = x < 3 ? 0 : pixel[-3], above = y < 1 ? 0 : *(pixel - stride);
      const std::size_t corner = x < 3 || y < 1 ? 0 : *(pixel - stride - 3);
      const std::size_t guess = filter == 1   ? left
                                : filter == 2 ? above
                                : filter == 3 ? (left + above) / 2
                                : filter == 4 ? paeth(left, above, corner)
                                              : 0;
      *pixel = static_cast<std::uint8_t>(byte_at(rows, y * (stride + 1) + 1 + x) + guess);
    }
  }
}

/// Reads NumPy's format 1.0 to 3.0: (3, H, W) little-endian floats or bytes, row-major.
void read_output(const std::string& content, GoldenPair& pair) {
  const std::string name = kOutput;
  if (content.size() < 12 || content.compare(0, 6, "\x93NUMPY") != 0) {
    refuse_golden(name + " is not an array of NumPy");
  }
  const std::size_t begin = content[6] == 1 ? 10 : 12;
  std::size_t length = byte_at(content, 8) | byte_at(content, 9) << 8;
  if (begin == 12) length |= byte_at(content, 10) << 16 | byte_at(content, 11) << 24;
  if (length > content.size() || begin + length > content.size()) {
    refuse_golden(name + " is cut off");
  }
  const std::string header = content.substr(begin, length);
  const bool eight_bit = header.find("'|u1'") != std::string::npos;
  const bool known = eight_bit || header.find("'<f4'") != std::string::npos;
  if (!known || header.find("'fortran_order': False") == std::string::npos) {
    refuse_golden(name + " is not a row-major array of float32 or uint8");
  }
  const auto height = static_cast<std::size_t>(pair.size.height);
  const auto width = static_cast<std::size_t>(pair.size.width);
  const std::string due =
      "(3, " + std::to_string(height) + ", " + std::to_string(width) + ")";
  if (header.find("'shape': " + due) == std::string::npos) {
    refuse_golden(name + " is not of the size that golden/case.json states");
  }
  const std::size_t plane = height * width, bytes = eight_bit ? 1 : 4;
  if (content.size() - begin - length != 3 * plane * bytes) refuse_golden(name + " is cut off");
  const char* values = content.data() + begin + length;
  pair.output.resize(3 * plane);
  for (std::size_t i = 0; i < 3 * plane; ++i) {
    float value = 0;
    if (eight_bit) {
      value = static_cast<float>(static_cast<unsigned char>(values[i])) / 255.0f;
    } else {
      std::memcpy(&value, values + 4 * i, sizeof value);
    }
    pair.output[3 * (i % plane) + i / plane] = value;
  }
}

void read_case(const std::string& text, GoldenPair& pair) {
  const std::string name = kCase;
  try {
    const Json json = Json::parse(text);
    const Json* size = json.find("size");
    const bool sized = size != nullptr && size->items().size() == 2 &&
                       size->items()[0].whole() && size->items()[1].whole();
    if (!sized) refuse_golden(name + " states no size");
    pair.size = {*size->items()[0].whole(), *size->items()[1].whole()};
    const Json *seed = json.find("seed"), *temperature = json.find("temperature");
    const Json* most = json.find("max_abs");
    if (seed != nullptr) pair.seed = static_cast<std::uint64_t>(seed->whole().value_or(0));
    if (temperature != nullptr) pair.temperature = temperature->real();
    if (most != nullptr) pair.max_abs = most->real().value_or(pair.max_abs);
  } catch (const JsonError& error) {
    refuse_golden(name + " is not valid JSON: " + error.what());
  }
  const bool small = pair.size.height >= 1 && pair.size.width >= 1 &&
                     pair.size.height <= 65536 && pair.size.width <= 65536;
  if (!small) refuse_golden(name + " states no size");
}

}  // namespace

std::optional<GoldenPair> read_golden_pair(const Bundle& bundle) {
  if (bundle.manifest().files.count(kCase) == 0) return std::nullopt;
  GoldenPair pair;
  read_case(bundle.read(kCase), pair);
  read_picture(bundle.read(kInput), pair);
  read_output(bundle.read(kOutput), pair);
  return pair;
}

}  // namespace flowsr::detail
