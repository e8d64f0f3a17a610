#include "commands/png_picture.hpp"

#include <png.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

namespace flowsr::detail {

namespace {

constexpr std::int64_t kMaxPixels = 178956970;  // Python's limit for a decompression bomb

using Bytes = std::vector<std::uint8_t>;

[[noreturn]] void fail(const std::string& message) { throw Error(Code::failure, message); }
[[noreturn]] void refuse(const std::string& message) { throw Error(Code::bundle, message); }

std::uint32_t big_endian(const unsigned char* bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
         std::uint32_t{bytes[2]} << 8 | std::uint32_t{bytes[3]};
}

/// Returns the content of a chunk, null without one.
const unsigned char* chunk(const std::string& content, const char* name, std::size_t least) {
  const auto* data = reinterpret_cast<const unsigned char*>(content.data());
  for (std::size_t at = 8; at + 12 <= content.size();) {
    const std::size_t length = big_endian(data + at);
    if (length > content.size() - at - 12) return nullptr;
    if (std::memcmp(data + at + 4, name, 4) == 0 && length >= least) return data + at + 8;
    at += length + 12;
  }
  return nullptr;
}

// libpng reports errors by longjmp: the methods below that call setjmp create no object with a
// destructor.
class PngReader {
 public:
  explicit PngReader(const std::string& content) : content_(content) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) throw std::bad_alloc();
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  /// Reads the chunks before the pixels.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_read_fn(png_, this, on_read);
    png_read_info(png_, info_);
    width = png_get_image_width(png_, info_);
    height = png_get_image_height(png_, info_);
    depth = png_get_bit_depth(png_, info_);
    png_charp name = nullptr;
    int method = 0;
    has_profile =
        png_get_iCCP(png_, info_, &name, &method, &profile, &profile_size) == PNG_INFO_iCCP;
    png_set_expand(png_);  // palettes, fewer bits and transparent colors
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    channels = png_get_channels(png_, info_);
    row_bytes = png_get_rowbytes(png_, info_);
    return true;
  }

  bool read_rows(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_read_image(png_, rows);
    if (setjmp(png_jmpbuf(png_))) {
      ended = false;
      return early_;  // no pixel is missing
    }
    png_read_end(png_, info_);
    return true;
  }

  png_uint_32 width = 0, height = 0;
  int depth = 0, channels = 0;
  bool has_profile = false;
  bool ended = true;
  png_bytep profile = nullptr;
  png_uint_32 profile_size = 0;
  std::size_t row_bytes = 0;
  char message[160] = "";

 private:
  static void on_error(png_structp png, png_const_charp text) {
    auto* self = static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(self->message, sizeof self->message, "%s", text);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep out, png_size_t size) {
    auto* self = static_cast<PngReader*>(png_get_io_ptr(png));
    self->early_ = size > self->content_.size() - self->at_;
    if (self->early_) png_error(png, "the file ends too early");
    std::memcpy(out, self->content_.data() + self->at_, size);
    self->at_ += size;
  }

  const std::string& content_;
  std::size_t at_ = 0;
  bool early_ = false;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

class PngWriter {
 public:
  PngWriter() {
    png_ = png_create_write_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) throw std::bad_alloc();
  }
  ~PngWriter() { png_destroy_write_struct(&png_, &info_); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  bool write(const PngPicture& picture, int color, png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_write_fn(png_, this, on_write, on_flush);
    png_set_IHDR(png_, info_, static_cast<png_uint_32>(picture.size.width),
                 static_cast<png_uint_32>(picture.size.height), picture.depth, color,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (!picture.profile.empty()) {
      png_set_benign_errors(png_, 1);  // a profile that libpng finds odd is kept all the same
      png_set_iCCP(png_, info_, "ICC Profile", PNG_COMPRESSION_TYPE_BASE,
                   reinterpret_cast<png_const_bytep>(picture.profile.data()),
                   static_cast<png_uint_32>(picture.profile.size()));
    }
    png_write_info(png_, info_);
    png_write_image(png_, rows);
    png_write_end(png_, nullptr);
    return !full_;
  }

  std::string content;
  char message[160] = "";

 private:
  static void on_error(png_structp png, png_const_charp text) {
    auto* self = static_cast<PngWriter*>(png_get_error_ptr(png));
    std::snprintf(self->message, sizeof self->message, "%s", text);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_write(png_structp png, png_bytep data, png_size_t size) {
    auto* self = static_cast<PngWriter*>(png_get_io_ptr(png));
    try {
      self->content.append(reinterpret_cast<const char*>(data), size);
    } catch (const std::bad_alloc&) {
      self->full_ = true;  // no exception may pass through libpng
    }
  }
  static void on_flush(png_structp) {}

  bool full_ = false;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

/// Returns the orientation in a PNG's EXIF block, 1 (upright) by default.
int orientation_of(const std::string& content) {
  const unsigned char* exif = chunk(content, "eXIf", 14);
  if (exif == nullptr) return 1;
  const std::size_t size = big_endian(exif - 8);
  const bool little = exif[0] == 'I';
  const auto number = [&](std::size_t at, int bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      const auto byte = exif[at + static_cast<std::size_t>(little ? bytes - 1 - i : i)];
      value = value << 8 | byte;
    }
    return value;
  };
  if (std::memcmp(exif, little ? "II*\0" : "MM\0*", 4) != 0) return 1;
  const std::size_t first = number(4, 4);
  if (first + 2 > size) return 1;
  const std::size_t count = number(first, 2);
  for (std::size_t i = 0; i < count && first + 14 + 12 * i <= size; ++i) {
    const std::size_t entry = first + 2 + 12 * i;
    if (number(entry, 2) != 0x0112) continue;
    const std::uint32_t value = number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

/// Returns pixels turned upright: an orientation is a transposition and two reversals.
Bytes upright(const Bytes& image, Size size, std::int64_t pixel, int orientation) {
  const bool turned = orientation >= 5;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation >= 7;
  const bool flip_x =
      orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const Size result_size = turned ? Size{size.width, size.height} : size;
  Bytes result(image.size());
  auto out = result.begin();
  for (std::int64_t y = 0; y < result_size.height; ++y) {
    for (std::int64_t x = 0; x < result_size.width; ++x) {
      const std::int64_t v = flip_y ? result_size.height - 1 - y : y;
      const std::int64_t u = flip_x ? result_size.width - 1 - x : x;
      const std::int64_t at = turned ? u * size.width + v : v * size.width + u;
      out = std::copy_n(image.begin() + at * pixel, pixel, out);
    }
  }
  return result;
}

std::vector<png_bytep> rows_of(Bytes& pixels, std::size_t height) {
  std::vector<png_bytep> rows(height);
  const std::size_t row_bytes = pixels.size() / height;
  for (std::size_t y = 0; y < height; ++y) rows[y] = pixels.data() + y * row_bytes;
  return rows;
}

std::vector<std::uint16_t> words_of(const Bytes& bytes) {  // PNG has the high byte first
  std::vector<std::uint16_t> words(bytes.size() / 2);
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = static_cast<std::uint16_t>(bytes[2 * i] << 8 | bytes[2 * i + 1]);
  }
  return words;
}

Bytes bytes_of(const std::vector<std::uint16_t>& words) {
  Bytes bytes;
  bytes.reserve(words.size() * 2);
  for (const std::uint16_t word : words) {
    bytes.push_back(static_cast<std::uint8_t>(word >> 8));
    bytes.push_back(static_cast<std::uint8_t>(word & 0xFF));
  }
  return bytes;
}

void replace_file(const std::string& path, const std::string& content) {
  const std::filesystem::path target(path);
  const std::string name = "." + target.filename().string().substr(0, 32) + "." +
                           std::to_string(std::random_device()()) + ".tmp";
  const std::filesystem::path temporary = target.parent_path() / name;
  std::ofstream file(temporary, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, target, error);
  if (file && !error) return;
  const std::string reason = error ? error.message() : std::strerror(errno);
  std::filesystem::remove(temporary, error);
  fail(path + " cannot be written: " + reason);
}

}  // namespace

PngPicture read_png(const std::string& content, const std::string& name) {
  const bool signed_as_png =
      content.size() >= 8 &&
      png_sig_cmp(reinterpret_cast<png_const_bytep>(content.data()), 0, 8) == 0;
  if (!signed_as_png) refuse(name + " is not a PNG picture");
  PngReader reader(content);
  if (!reader.read_header()) refuse(name + " is damaged: " + reader.message);
  const auto pixels = std::int64_t{reader.width} * std::int64_t{reader.height};
  if (pixels > kMaxPixels) {
    refuse(name + " has " + std::to_string(pixels) + " pixels, more than " +
           std::to_string(kMaxPixels));
  }
  Bytes data(reader.row_bytes * reader.height);
  std::vector<png_bytep> rows = rows_of(data, reader.height);
  if (!reader.read_rows(rows.data())) refuse(name + " is damaged: " + reader.message);

  const Size size{reader.height, reader.width};
  const int orientation = orientation_of(content);
  PngPicture picture;
  picture.ended = reader.ended;
  const unsigned char* animation = chunk(content, "acTL", 4);
  picture.animated = animation != nullptr && big_endian(animation) > 1;
  picture.channels = reader.channels;
  picture.depth = reader.depth > 8 ? 16 : 8;
  picture.size = orientation >= 5 ? Size{size.width, size.height} : size;
  if (orientation != 1) {
    data = upright(data, size, reader.channels * picture.depth / 8, orientation);
  }
  if (picture.depth == 16) {
    picture.words = words_of(data);
  } else {
    picture.bytes = std::move(data);
  }
  if (reader.has_profile) {
    picture.profile.assign(reinterpret_cast<const char*>(reader.profile), reader.profile_size);
  }
  picture.lost_profile = !reader.has_profile && chunk(content, "iCCP", 0) != nullptr;
  return picture;
}

PngPicture read_png_file(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) refuse(path + " does not exist");
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, ignored)) refuse(path + " cannot be read");
  const std::string content((std::istreambuf_iterator<char>(file)),
                            std::istreambuf_iterator<char>());
  if (content.empty()) refuse(path + " is empty");
  return read_png(content, path);
}

void check_output(const std::string& path, bool force) {
  const std::filesystem::path target(path);
  std::string suffix = target.extension().string();
  for (char& c : suffix) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (suffix != ".png") fail(path + " must end in .png");
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    fail(path + " cannot be written: no folder " + folder.string());
  }
  if (std::filesystem::is_directory(target, ignored)) {
    fail(path + " cannot be written: it is a folder");
  }
  const auto status = std::filesystem::symlink_status(target, ignored);
  if (std::filesystem::exists(status) && !force) {
    fail(path + " exists; --force replaces it");
  }
}

void write_png_file(const std::string& path, const PngPicture& picture, bool force) {
  constexpr int kColors[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                              PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
  Bytes pixels = picture.depth == 16 ? bytes_of(picture.words) : picture.bytes;
  std::vector<png_bytep> rows = rows_of(pixels, static_cast<std::size_t>(picture.size.height));
  PngWriter writer;
  if (!writer.write(picture, kColors[picture.channels - 1], rows.data())) {
    fail(path + " cannot be encoded: " + writer.message);
  }
  check_output(path, force);
  replace_file(path, writer.content);
}

}  // namespace flowsr::detail
