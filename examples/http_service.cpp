// Serve a bundle over HTTP from C++: POST a PPM picture, get the larger one.
//
//   flowsr-http edsr.bundle 8080
//   curl --data-binary @photo.ppm 'http://127.0.0.1:8080/?scale=4' -o large.ppm
//
// One upscaler serves all connections. It listens on the loopback address alone and knows just
// enough of HTTP for curl: put a proxy in front of it, or use `flowsr-export serve`.

#include <flowsr/flowsr.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kConnections = 4;                   // at once; further ones wait in the queue
constexpr int kQueue = 16;
constexpr int kSeconds = 30;                      // longest silence of a client
constexpr std::size_t kMostHead = 16 << 10;       // bytes
constexpr std::size_t kMostBody = 64 << 20;       // bytes
constexpr std::int64_t kMostPixels = 64'000'000;  // of a result

/// A request that cannot be answered.
struct Refused : std::runtime_error {
  Refused(int status_, const std::string& message) : std::runtime_error(message), status(status_) {}
  int status;
};

struct Picture {
  flowsr::Size size;
  std::vector<std::uint8_t> pixels;  // RGB
};

/// Appends what a client sends next. Throws Refused when it is silent or gone.
void receive(int client, std::string& data) {
  char part[1 << 16];
  const ssize_t count = recv(client, part, sizeof part, 0);
  if (count <= 0) throw Refused(408, "the request is incomplete");
  data.append(part, static_cast<std::size_t>(count));
}

void send_all(int client, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t count = send(client, data, size, MSG_NOSIGNAL);
    if (count <= 0) return;  // the client is gone
    data += count;
    size -= static_cast<std::size_t>(count);
  }
}

void answer(int client, int status, const char* type, const std::string& body) {
  const std::string head = "HTTP/1.1 " + std::to_string(status) +
                           (status == 200 ? " OK" : " Refused") + "\r\nContent-Type: " + type +
                           "\r\nContent-Length: " + std::to_string(body.size()) +
                           "\r\nConnection: close\r\n\r\n";
  send_all(client, head.data(), head.size());
  send_all(client, body.data(), body.size());
}

/// Reads a whole number up to `most` at `place`, which moves behind it. Throws Refused.
std::size_t number(const std::string& text, std::size_t& place, std::size_t most) {
  const std::size_t begin = place;
  std::size_t value = 0;
  for (; place < text.size() && std::isdigit(static_cast<unsigned char>(text[place])); ++place) {
    value = value * 10 + static_cast<std::size_t>(text[place] - '0');
    if (value > most) throw Refused(413, "a number exceeds " + std::to_string(most));
  }
  if (place == begin) throw Refused(400, "a number is missing");
  return value;
}

/// Returns the value of a header in lower-case letters, "" if there is none.
std::string header(const std::string& head, const std::string& name) {
  std::string lower;
  for (const char letter : head) {
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  const std::size_t begin = lower.find("\r\n" + name + ": ");
  if (begin == std::string::npos) return "";
  const std::size_t value = begin + name.size() + 4;
  return lower.substr(value, lower.find("\r\n", value) - value);
}

/// Returns the scale in the address of a request line, 4 if it has none.
std::string scale_of(const std::string& head) {
  const std::string line = head.substr(0, head.find("\r\n"));
  if (line.rfind("POST /", 0) != 0) throw Refused(405, "POST a picture");
  const std::size_t begin = line.find("?scale=");
  if (begin == std::string::npos) return "4";
  return line.substr(begin + 7, line.find_first_of("& ", begin) - begin - 7);
}

/// Reads a binary PPM picture of eight bits. Throws Refused.
Picture read_ppm(const std::string& body) {
  if (body.rfind("P6", 0) != 0) throw Refused(415, "the body is not a binary PPM picture (P6)");
  std::size_t place = 2;
  std::size_t values[3];
  for (std::size_t& value : values) {
    while (place < body.size() && std::isspace(static_cast<unsigned char>(body[place]))) ++place;
    value = number(body, place, 1 << 16);
  }
  const std::size_t bytes = values[0] * values[1] * 3;
  if (values[2] != 255 || bytes == 0 || body.size() != place + 1 + bytes) {
    throw Refused(400, "the picture is damaged, or not of eight bits");
  }
  Picture picture;
  picture.size = {static_cast<std::int64_t>(values[1]), static_cast<std::int64_t>(values[0])};
  picture.pixels.assign(body.begin() + static_cast<std::ptrdiff_t>(place) + 1, body.end());
  return picture;
}

/// Receives a request; returns its head, and its body in `body`.
std::string request(int client, std::string& body) {
  std::string data;
  std::size_t end = std::string::npos;
  while ((end = data.find("\r\n\r\n")) == std::string::npos) {
    if (data.size() > kMostHead) throw Refused(431, "the head of the request is too long");
    receive(client, data);
  }
  const std::string head = data.substr(0, end + 2);
  std::size_t place = 0;
  const std::size_t length = number(header(head, "content-length"), place, kMostBody);
  if (header(head, "expect") == "100-continue") {
    const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    send_all(client, go_on.data(), go_on.size());
  }
  body = data.substr(end + 4);
  while (body.size() < length) receive(client, body);
  body.resize(length);
  return head;
}

/// Answers one request.
void serve(const flowsr::Upscaler& upscaler, int client) {
  try {
    std::string body;
    const std::string head = request(client, body);
    const flowsr::Target target(flowsr::Scale(scale_of(head)));
    const Picture picture = read_ppm(body);
    const flowsr::Size size = upscaler.target(picture.size, target);
    if (size.height > kMostPixels / size.width) throw Refused(413, "the result is too large");
    std::vector<std::uint8_t> large(static_cast<std::size_t>(size.height * size.width * 3));
    upscaler.upscale(picture.pixels.data(), picture.size, target, large.data());
    std::string result =
        "P6\n" + std::to_string(size.width) + " " + std::to_string(size.height) + "\n255\n";
    result.append(large.begin(), large.end());
    answer(client, 200, "image/x-portable-pixmap", result);
  } catch (const Refused& error) {
    answer(client, error.status, "text/plain", std::string(error.what()) + "\n");
  } catch (const flowsr::Error& error) {
    const int status = error.code() == flowsr::Code::usage ? 422 : 500;
    answer(client, status, "text/plain", std::string(error.what()) + "\n");
  } catch (const std::exception& error) {
    answer(client, 500, "text/plain", std::string(error.what()) + "\n");
  }
}

/// Takes connections, one after another, for as long as the program runs.
void work(const flowsr::Upscaler& upscaler, int listener) {
  for (;;) {
    const int client = accept(listener, nullptr, nullptr);
    if (client < 0) continue;
    const timeval patience{kSeconds, 0};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    serve(upscaler, client);
    close(client);
  }
}

/// Opens a port of the loopback address; returns -1 if that fails.
int listen_on(int port) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int yes = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool open = bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  return open && listen(listener, kQueue) == 0 ? listener : -1;
}

}  // namespace

int main(int count, char** words) {
  const int port = count == 3 ? std::atoi(words[2]) : 0;
  if (port < 1 || port > 65535) {
    std::fprintf(stderr, "usage: %s BUNDLE PORT\n", words[0]);
    return FLOWSR_USAGE;
  }
  try {
    const flowsr::Upscaler upscaler = flowsr::Upscaler::open(words[1]);
    const int listener = listen_on(port);
    if (listener < 0) {
      std::fprintf(stderr, "port %d cannot be opened\n", port);
      return FLOWSR_FAILURE;
    }
    std::printf("%s on http://127.0.0.1:%d\n", words[1], port);
    std::fflush(stdout);
    std::vector<std::thread> threads;
    for (int i = 1; i < kConnections; ++i) {
      threads.emplace_back([&] { work(upscaler, listener); });
    }
    work(upscaler, listener);
  } catch (const flowsr::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
