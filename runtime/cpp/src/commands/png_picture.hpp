/// PNG pictures for the commands: every channel of 8 or 16 bits, and the ICC profile.
#ifndef FLOWSR_PNG_PICTURE_HPP
#define FLOWSR_PNG_PICTURE_HPP

#include <cstdint>
#include <string>
#include <vector>

#include "flowsr/flowsr.hpp"

namespace flowsr::detail {

/// A picture, upright; a palette counts as RGB.
struct PngPicture {
  Size size;
  int channels = 3;                  ///< 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
  int depth = 8;                     ///< Bits per channel, 8 or 16.
  std::vector<std::uint8_t> bytes;   ///< Pixels of 8 bits.
  std::vector<std::uint16_t> words;  ///< Pixels of 16 bits.
  std::string profile;               ///< ICC profile, "" where there is none.
  bool lost_profile = false;         ///< Whether the file's is damaged and was left out.
  bool ended = true;                 ///< Whether the file has its last chunk.
  bool animated = false;             ///< Whether it is the first of several frames.
};

/// Reads the content of a PNG file; `name` is for messages. Throws Error (failure).
PngPicture read_png(const std::string& content, const std::string& name);

/// Reads a PNG file. Throws Error (failure).
PngPicture read_png_file(const std::string& path);

/// Checks that a file can be written, before slow work. Throws Error (failure).
void check_output(const std::string& path, bool force);

/// Writes a picture under a temporary name and renames it into place. Throws Error (failure).
void write_png_file(const std::string& path, const PngPicture& picture, bool force);

}  // namespace flowsr::detail

#endif  // FLOWSR_PNG_PICTURE_HPP
