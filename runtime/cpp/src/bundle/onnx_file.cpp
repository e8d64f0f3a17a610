#include "bundle/onnx_file.hpp"

#include <cstdint>
#include <vector>

namespace flowsr::detail {

namespace {

enum class Message { model, training, graph, function, node, attribute, sparse, tensor, other };

struct Region {
  Message message;
  std::size_t begin, end;
};

constexpr std::uint64_t kExternalData = 13, kDataLocation = 14;  // fields of a tensor

/// Returns the message in a field of onnx.proto that leads to tensors.
Message inner(Message message, std::uint64_t field) {
  using M = Message;
  switch (message) {
    case M::model:
      return field == 7 ? M::graph : field == 20 ? M::training
             : field == 25 ? M::function : M::other;
    case M::training: return field == 1 || field == 2 ? M::graph : M::other;
    case M::graph:
      return field == 1 ? M::node : field == 5 ? M::tensor : field == 15 ? M::sparse : M::other;
    case M::function: return field == 7 ? M::node : field == 11 ? M::attribute : M::other;
    case M::node: return field == 5 ? M::attribute : M::other;
    case M::attribute:
      return field == 5 || field == 10 ? M::tensor : field == 6 || field == 11 ? M::graph
             : field == 22 || field == 23 ? M::sparse : M::other;
    case M::sparse: return field == 1 || field == 2 ? M::tensor : M::other;
    default: return M::other;
  }
}

/// Reads a number of 7 bits per byte and moves behind it.
std::uint64_t varint(const std::string& data, std::size_t& at, std::size_t end) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; at < end && shift < 70; shift += 7) {
    const auto byte = static_cast<unsigned char>(data[at++]);
    if (shift < 64) value |= std::uint64_t{byte & 127u} << shift;
    if (byte < 128) break;
  }
  return value;
}

}  // namespace

bool is_self_contained(const std::string& model) {
  std::vector<Region> waiting = {{Message::model, 0, model.size()}};
  while (!waiting.empty()) {
    const Region region = waiting.back();
    waiting.pop_back();
    for (std::size_t at = region.begin; at < region.end;) {
      const std::uint64_t key = varint(model, at, region.end);
      const std::uint64_t field = key >> 3;
      std::uint64_t value = 0, size = 0;
      switch (key & 7) {
        case 0: value = varint(model, at, region.end); break;
        case 1: size = 8; break;
        case 2: size = varint(model, at, region.end); break;
        case 5: size = 4; break;
        default: size = UINT64_MAX;
      }
      if (size > region.end - at) break;  // no protobuf: the libraries refuse it
      if (region.message == Message::tensor &&
          (field == kExternalData || (field == kDataLocation && value != 0))) {
        return false;
      }
      const Message next = inner(region.message, field);
      if (next != Message::other && (key & 7) == 2) {
        waiting.push_back({next, at, at + static_cast<std::size_t>(size)});
      }
      at += static_cast<std::size_t>(size);
    }
  }
  return true;
}

}  // namespace flowsr::detail
