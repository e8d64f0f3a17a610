#include "backends/session.hpp"

#include <algorithm>
#include <cstdio>
#include <set>

#include "upscaling/geometry.hpp"
#include "bundle/manifest.hpp"

namespace flowsr {

bool detail::says_out_of_memory(const std::string& message) {
  std::string words;
  for (const char c : message) words += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  for (const char* sign : {"failed to allocate memory", "out of memory", "bad_alloc",
                           "bad allocation", "alloc_failed", "available memory of"}) {
    if (words.find(sign) != std::string::npos) return true;
  }
  return false;
}

std::string detail::one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const bool space = static_cast<unsigned char>(c) <= 0x20;
    if (!space) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

void detail::check_inputs(const std::string& path, const std::vector<std::string>& names,
                          const Manifest& manifest) {
  std::set<std::string> expected = {"input"};
  if (manifest.geometry) expected.insert("geometry");
  for (const Latent& latent : manifest.latents) expected.insert(latent.name);
  const std::set<std::string> taken(names.begin(), names.end());
  if (taken == expected) return;
  const auto joined = [](const std::set<std::string>& all) {
    std::string text;
    for (const std::string& name : all) text += (text.empty() ? "" : ", ") + name;
    return text;
  };
  refuse(path + " takes " + joined(taken) + ", bundle.json says " + joined(expected));
}

bool detail::is_whole(const std::vector<Input>& inputs) {
  const std::int64_t* geometry = nullptr;
  std::vector<std::int64_t> lr;
  for (const Input& input : inputs) {
    if (input.name == "input" && input.shape.size() == 4) lr = {input.shape[2], input.shape[3]};
    if (input.name == "geometry") geometry = static_cast<const std::int64_t*>(input.data);
  }
  if (geometry == nullptr || lr.empty()) return false;
  const std::int64_t height = geometry[8], width = geometry[9];
  const std::vector<std::int64_t> whole = {lr[0], lr[1], height, width, 0, 0,
                                           0,     0,     height, width};
  return std::equal(whole.begin(), whole.end(), geometry);
}

const SizeFixedGraph* detail::matching_graph(const std::vector<SizeFixedGraph>& graphs,
                                             const std::vector<Input>& inputs) {
  const std::int64_t* geometry = nullptr;
  const std::vector<std::int64_t>* shape = nullptr;
  for (const Input& input : inputs) {
    if (input.name == "input") shape = &input.shape;
    if (input.name == "geometry") geometry = static_cast<const std::int64_t*>(input.data);
  }
  if (shape == nullptr || shape->size() != 4) return nullptr;
  for (const SizeFixedGraph& graph : graphs) {
    const Size lr = graph.source, out = graph.target;
    if ((*shape)[0] != graph.batch || lr != Size{(*shape)[2], (*shape)[3]}) continue;
    const std::vector<std::int64_t> whole = geometry_of(whole_extent(lr.height, out.height),
                                                        whole_extent(lr.width, out.width));
    if (geometry == nullptr || std::equal(whole.begin(), whole.end(), geometry)) return &graph;
  }
  return nullptr;
}

std::string detail::short_text(double value, int digits) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
  return buffer;
}

}  // namespace flowsr
