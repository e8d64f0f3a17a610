#include "bundle/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace flowsr::detail {

namespace {

constexpr int kDeepest = 500;           // levels; each is one more call on the stack
constexpr std::size_t kLongestShown = 60;  // characters of a value in a message

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Returns whether bytes are UTF-8, without surrogates and overlong forms.
bool is_utf8(const std::string& text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const int more = first < 0x80 ? 0 : first < 0xC2 ? -1 : first < 0xE0 ? 1
                     : first < 0xF0 ? 2 : first < 0xF5 ? 3 : -1;
    if (more < 0 || i + static_cast<std::size_t>(more) >= text.size()) return false;
    std::uint32_t point = more == 0 ? first : first & (0x3Fu >> more);
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if ((next & 0xC0) != 0x80) return false;
      point = point << 6 | (next & 0x3Fu);
    }
    const bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
    if (overlong || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return false;
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

void append_utf8(std::string& out, std::uint32_t point) {
  const auto put = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0 | point >> 6), put(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12), put(0x80 | (point >> 6 & 0x3F)), put(0x80 | (point & 0x3F));
  } else {
    put(0xF0 | point >> 18), put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F)), put(0x80 | (point & 0x3F));
  }
}

void append_escape(std::string& out, std::uint32_t unit) {
  char buffer[8];
  std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(unit));
  out += buffer;
}

/// Writes a string as Python does: ASCII, everything else escaped.
void append_quoted(std::string& out, const std::string& text) {
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80) {
      ++i;
      const std::string special = "\"\\\n\r\t\f\b";
      const std::size_t at = special.find(static_cast<char>(byte));
      if (at != std::string::npos) {
        out += '\\';
        out += "\"\\nrtfb"[at];
      } else if (byte < 0x20 || byte == 0x7F) {
        append_escape(out, byte);
      } else {
        out += static_cast<char>(byte);
      }
      continue;
    }
    const std::size_t more = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    std::uint32_t point = byte & (0x3Fu >> more);
    for (std::size_t k = 1; k <= more; ++k) {
      point = point << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    }
    if (point >= 0x10000) {
      append_escape(out, 0xD800 + ((point - 0x10000) >> 10));
      append_escape(out, 0xDC00 + ((point - 0x10000) & 0x3FF));
    } else {
      append_escape(out, point);
    }
    i += more + 1;
  }
  out += '"';
}

}  // namespace

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json document() {
    Json value = this->value(0);
    skip();
    if (at_ != text_.size()) fail("something after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw JsonError(what + " at byte " + std::to_string(at_));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' ||
                                  text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  void expect(char wanted) {
    skip();
    if (at_ >= text_.size() || text_[at_] != wanted) {
      fail(std::string("no ") + wanted + " where it is due");
    }
    ++at_;
  }

  bool take(const char* word) {
    const std::string wanted(word);
    if (text_.compare(at_, wanted.size(), wanted) != 0) return false;
    at_ += wanted.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail("values nested too deeply");
    skip();
    Json result;
    const char first = peek();
    if (first == '{') {
      read_object(result, depth);
    } else if (first == '[') {
      read_array(result, depth);
    } else if (first == '"') {
      result.kind_ = Json::Kind::string;
      result.text_ = string();
    } else if (first == '-' || is_digit(first)) {
      result.kind_ = Json::Kind::number;
      result.text_ = number();
    } else if (take("true")) {
      result.kind_ = Json::Kind::boolean;
      result.boolean_ = true;
    } else if (take("false")) {
      result.kind_ = Json::Kind::boolean;
    } else if (!take("null")) {
      fail("no value where it is due");
    }
    return result;
  }

  void read_object(Json& result, int depth) {
    result.kind_ = Json::Kind::object;
    ++at_;
    skip();
    if (peek() == '}') {
      ++at_;
      return;
    }
    for (;;) {
      skip();
      if (peek() != '"') fail("no name where it is due");
      std::string name = string();
      expect(':');
      result.members_.emplace_back(std::move(name), value(depth + 1));
      skip();
      if (peek() != ',') break;
      ++at_;
    }
    expect('}');
    sort_members(result);
  }

  /// Sorts by name; the last of equally named members counts, as in Python.
  static void sort_members(Json& result) {
    auto& all = result.members_;
    std::stable_sort(all.begin(), all.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<std::pair<std::string, Json>> last;
    for (auto& member : all) {
      if (!last.empty() && last.back().first == member.first) last.pop_back();
      last.push_back(std::move(member));
    }
    all = std::move(last);
  }

  void read_array(Json& result, int depth) {
    result.kind_ = Json::Kind::array;
    ++at_;
    skip();
    if (peek() == ']') {
      ++at_;
      return;
    }
    for (;;) {
      result.items_.push_back(value(depth + 1));
      skip();
      if (peek() != ',') break;
      ++at_;
    }
    expect(']');
  }

  std::string number() {
    const std::size_t begin = at_;
    if (peek() == '-') ++at_;
    if (peek() == '0') {
      ++at_;
    } else {
      digits();
    }
    if (peek() == '.') ++at_, digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    return text_.substr(begin, at_ - begin);
  }

  void digits() {
    if (!is_digit(peek())) fail("no digit where it is due");
    while (is_digit(peek())) ++at_;
  }

  std::string string() {
    std::string out;
    for (++at_;; ) {
      if (at_ >= text_.size()) fail("a string without an end");
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        out += c;
        continue;
      }
      const std::string names = "\"\\/bfnrt";
      const char escape = peek();
      const std::size_t which = names.find(escape);
      ++at_;
      if (escape == 'u') {
        append_utf8(out, escaped_point());
      } else if (which != std::string::npos && at_ <= text_.size()) {
        out += "\"\\/\b\f\n\r\t"[which];
      } else {
        fail("an unknown escape");
      }
    }
  }

  std::uint32_t escaped_point() {
    const std::uint32_t high = hexadecimal();
    if (high < 0xD800 || high >= 0xE000) return high;
    if (high >= 0xDC00 || !take("\\u")) fail("half of a surrogate pair");
    const std::uint32_t low = hexadecimal();
    if (low < 0xDC00 || low >= 0xE000) fail("half of a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  std::uint32_t hexadecimal() {
    std::uint32_t result = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = is_digit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("an escape of fewer than four digits");
      result = result << 4 | static_cast<std::uint32_t>(digit);
    }
    return result;
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

Json Json::parse(const std::string& text) {
  if (!is_utf8(text)) throw JsonError("not UTF-8");
  return JsonReader(text).document();
}

const Json* Json::find(const std::string& name) const {
  const auto found = std::lower_bound(
      members_.begin(), members_.end(), name,
      [](const auto& member, const std::string& wanted) { return member.first < wanted; });
  return found != members_.end() && found->first == name ? &found->second : nullptr;
}

std::optional<std::int64_t> Json::whole() const {
  if (kind_ != Kind::number) return std::nullopt;
  std::int64_t value = 0;
  const char* end = text_.data() + text_.size();
  const auto [stop, error] = std::from_chars(text_.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;  // a fraction, or too large
  return value;
}

std::optional<double> Json::real() const {
  if (kind_ != Kind::number) return std::nullopt;
  double value = 0;
  const char* end = text_.data() + text_.size();
  const auto [stop, error] = std::from_chars(text_.data(), end, value);
  if (error == std::errc::result_out_of_range) {
    value = std::strtod(text_.c_str(), nullptr);  // 0 or infinity, as in Python
  } else if (error != std::errc() || stop != end) {
    return std::nullopt;
  }
  if (!std::isfinite(value)) return std::nullopt;
  return value;
}

void Json::write(std::string& out, int level) const {
  const auto line = [&out](int depth) {
    if (depth >= 0) out += '\n' + std::string(static_cast<std::size_t>(depth), ' ');
  };
  const int inner = level < 0 ? -1 : level + 1;
  switch (kind_) {
    case Kind::null: out += "null"; return;
    case Kind::boolean: out += boolean_ ? "true" : "false"; return;
    case Kind::number: out += text_; return;
    case Kind::string: append_quoted(out, text_); return;
    case Kind::array:
      out += '[';
      for (std::size_t i = 0; i < items_.size(); ++i) {
        if (i > 0) out += ',';
        line(inner);
        items_[i].write(out, inner);
      }
      if (!items_.empty()) line(level);
      out += ']';
      return;
    case Kind::object:
      out += '{';
      for (std::size_t i = 0; i < members_.size(); ++i) {
        if (i > 0) out += ',';
        line(inner);
        append_quoted(out, members_[i].first);
        out += level < 0 ? ":" : ": ";
        members_[i].second.write(out, inner);
      }
      if (!members_.empty()) line(level);
      out += '}';
      return;
  }
}

std::string Json::compact() const {
  std::string out;
  write(out, -1);
  return out;
}

std::string Json::indented() const {
  std::string out;
  write(out, 0);
  return out;
}

Json Json::without(const std::string& name) const {
  Json copy = *this;
  auto& all = copy.members_;
  all.erase(std::remove_if(all.begin(), all.end(),
                           [&name](const auto& member) { return member.first == name; }),
            all.end());
  return copy;
}

std::string Json::shown() const {
  if (kind_ == Kind::null) return "None";
  if (kind_ == Kind::boolean) return boolean_ ? "True" : "False";
  std::string out = kind_ == Kind::string ? "'" + text_ + "'" : compact();
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return out.size() <= kLongestShown ? out : out.substr(0, kLongestShown) + "…";
}

}  // namespace flowsr::detail
