// A small service: load a model once, then upscale every picture that arrives on stdin.
//
// Pictures are binary PPM (P6, 8 bits), one after another, and so are the results on stdout. Build
// it against an installed runtime (docs/guides/cpp.md), or let CMake find the package as in
// runtime/cpp/example:
//
//   g++ -std=c++17 -I/opt/flowsr/include examples/service.cpp -o service
//       -L/opt/flowsr/lib -lflowsr -Wl,-rpath,/opt/flowsr/lib      (the same line)
//   ./service edsr.bundle 4 < photo.ppm > large.ppm
#include <flowsr/flowsr.hpp>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

namespace {

struct Picture {
  flowsr::Size size;
  std::vector<std::uint8_t> pixels;  // RGB
};

/// Reads the next picture; returns false at the end of the stream.
bool read(std::istream& stream, Picture& picture) {
  std::string kind;
  if (!(stream >> kind)) return false;
  int white = 0;
  stream >> picture.size.width >> picture.size.height >> white;
  const bool fits = picture.size.width > 0 && picture.size.width <= flowsr::kMaxSide &&
                    picture.size.height > 0 && picture.size.height <= flowsr::kMaxSide;
  if (!stream || kind != "P6" || white != 255 || !fits) {
    throw flowsr::Error(flowsr::Code::usage, "input must be binary PPM with 8 bits (P6)");
  }
  stream.get();  // the one byte of white space before the pixels
  picture.pixels.resize(static_cast<std::size_t>(picture.size.height * picture.size.width * 3));
  if (!stream.read(reinterpret_cast<char*>(picture.pixels.data()),
                   static_cast<std::streamsize>(picture.pixels.size()))) {
    throw flowsr::Error(flowsr::Code::usage, "the last picture is cut off");
  }
  return true;
}

void write(std::ostream& stream, const Picture& picture) {
  stream << "P6\n" << picture.size.width << ' ' << picture.size.height << "\n255\n";
  stream.write(reinterpret_cast<const char*>(picture.pixels.data()),
               static_cast<std::streamsize>(picture.pixels.size()));
  if (!stream.flush()) throw flowsr::Error(flowsr::Code::failure, "stdout cannot be written");
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::cerr << "usage: " << words[0] << " BUNDLE SCALE < IN.ppm > OUT.ppm\n";
    return FLOWSR_USAGE;
  }
  try {
    const flowsr::Target target{flowsr::Scale(words[2])};
    const flowsr::Upscaler upscaler = flowsr::Upscaler::open(words[1]);
    flowsr::Request request;
    request.warn = [](const std::string& line) { std::cerr << "service: " << line << '\n'; };
    Picture picture, large;
    while (read(std::cin, picture)) {
      large.size = upscaler.target(picture.size, target);
      large.pixels.resize(static_cast<std::size_t>(large.size.height * large.size.width * 3));
      upscaler.upscale(picture.pixels.data(), picture.size, target, large.pixels.data(), request);
      write(std::cout, large);
    }
    return FLOWSR_DONE;
  } catch (const flowsr::Error& error) {
    std::cerr << "service: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
