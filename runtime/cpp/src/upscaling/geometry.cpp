#include "upscaling/geometry.hpp"

#include <algorithm>
#include <charconv>

#include "backends/session.hpp"

namespace flowsr {

using namespace detail;

namespace {

int64_t floor_div(int64_t value, int64_t by) {
  return value / by - (value % by < 0 ? 1 : 0);
}

int64_t floor_to(int64_t value, int64_t step) { return floor_div(value, step) * step; }

using Words = vector<std::uint32_t>;

constexpr std::uint32_t kWord = 1000000000;
constexpr size_t kLongestScale = 1000;  // characters

void trim(Words& words) {
  while (!words.empty() && words.back() == 0) words.pop_back();
}

Words words_of(const string& digits) {
  Words words;
  for (size_t end = digits.size(); end > 0;) {
    const size_t begin = end > 9 ? end - 9 : 0;
    words.push_back(static_cast<std::uint32_t>(std::stoul(digits.substr(begin, end - begin))));
    end = begin;
  }
  trim(words);
  return words;
}

/// Returns words times a number below 2^32.
Words times(const Words& words, int64_t factor) {
  Words result;
  std::uint64_t carry = 0;
  for (const std::uint32_t word : words) {
    carry += std::uint64_t{word} * static_cast<std::uint64_t>(factor);
    result.push_back(static_cast<std::uint32_t>(carry % kWord));
    carry /= kWord;
  }
  for (; carry > 0; carry /= kWord) result.push_back(static_cast<std::uint32_t>(carry % kWord));
  trim(result);
  return result;
}

Words plus(const Words& a, const Words& b) {
  Words result;
  std::uint32_t carry = 0;
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    carry += (i < a.size() ? a[i] : 0) + (i < b.size() ? b[i] : 0);
    result.push_back(carry % kWord);
    carry /= kWord;
  }
  if (carry > 0) result.push_back(carry);
  return result;
}

bool at_most(const Words& a, const Words& b) {
  if (a.size() != b.size()) return a.size() < b.size();
  return !std::lexicographical_compare(b.rbegin(), b.rend(), a.rbegin(), a.rend());
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Returns whether a text holds a power of ten with three digits, which could fill the memory.
bool has_long_power(const string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != 'e' && text[i] != 'E') continue;
    size_t at = i + 1;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    while (at < text.size() && text[at] == '0') ++at;
    const size_t begin = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    if (at - begin >= 3) return true;
  }
  return false;
}

/// A number as it is written: sign, digits around the point, what it is divided by, power.
struct Spelling {
  bool negative = false;
  string whole, decimals, divisor;
  int power = 0;
};

/// Reads what Python's Fraction reads, without underscores. Returns false for anything else.
bool read_number(const string& text, Spelling& result) {
  const char* spaces = " \t\n\r\f\v";
  size_t at = text.find_first_not_of(spaces);
  if (at == string::npos || text.size() > kLongestScale) return false;
  const size_t end = text.find_last_not_of(spaces) + 1;
  const auto peek = [&] { return at < end ? text[at] : '\0'; };
  const auto digits = [&] {
    const size_t begin = at;
    while (is_digit(peek())) ++at;
    return text.substr(begin, at - begin);
  };
  if (peek() == '+' || peek() == '-') result.negative = text[at++] == '-';
  result.whole = digits();
  if (peek() == '/' && !result.whole.empty()) {
    ++at;
    result.divisor = digits();
    return at == end && !result.divisor.empty();
  }
  if (peek() == '.') ++at, result.decimals = digits();
  if (result.whole.empty() && result.decimals.empty()) return false;
  if (peek() == 'e' || peek() == 'E') {
    ++at;
    const bool down = peek() == '-';
    if (down || peek() == '+') ++at;
    const string power = digits();
    if (power.empty()) return false;
    const size_t first = std::min(power.find_first_not_of('0'), power.size() - 1);
    result.power = std::stoi(power.substr(first)) * (down ? -1 : 1);
  }
  return at == end;
}

string shortest(double value) {
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  (void)error;  // every double fits
  return string(buffer, end);
}

Size checked_size(Size source, Size size) {
  if (size.height < source.height || size.width < source.width) {
    throw Error(Code::usage, "size must be at least the image's " + size_text(source) +
                                 ", got " + size_text(size));
  }
  if (std::max(size.height, size.width) > kMaxSide) {
    throw Error(Code::usage, "output sides must be at most " + std::to_string(kMaxSide) +
                                 " pixels, got " + size_text(size));
  }
  return size;
}

/// Returns the input pixel before the middle of an output pixel (spec: query geometry).
int64_t neighbor(int64_t row, int64_t source, int64_t target) {
  return floor_div((2 * row + 1) * source - target, 2 * target);
}

}  // namespace

Scale::Scale(const string& text) : text_(text) {
  if (has_long_power(text)) {
    throw Error(Code::usage, "scale must be from 1 to " + std::to_string(kMaxSide) + ", got " +
                                 one_line(text));
  }
  Spelling number;
  const bool read = read_number(text, number);
  const string zeros(static_cast<size_t>(std::abs(number.power)), '0');
  numerator_ = words_of(number.whole + number.decimals + (number.power > 0 ? zeros : ""));
  denominator_ = number.divisor.empty()
                     ? words_of("1" + string(number.decimals.size(), '0') +
                                (number.power < 0 ? zeros : ""))
                     : words_of(number.divisor);
  if (!read || denominator_.empty()) {
    throw Error(Code::usage,
                "scale must be a finite number, got " + one_line(text));
  }
  if (number.negative || !at_most(denominator_, numerator_)) {
    throw Error(Code::usage, "scale must be at least 1, got " + one_line(text));
  }
}

Scale::Scale(double value) : Scale(shortest(value)) {}

int64_t Scale::output_size(int64_t pixels) const {
  if (pixels < 1) {
    throw Error(Code::usage, "pixels must be at least 1, got " + std::to_string(pixels));
  }
  // The largest n with 2 n denominator <= 2 pixels numerator + denominator.
  int64_t low = 0, high = kMaxSide + 1;
  if (pixels <= kMaxSide) {
    const Words most = plus(times(numerator_, 2 * pixels), denominator_);
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (at_most(times(denominator_, 2 * middle), most)) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
  } else {
    low = high;
  }
  if (low > kMaxSide) {
    throw Error(Code::usage, "output sides must be at most " + std::to_string(kMaxSide) +
                                 " pixels, got more for " + std::to_string(pixels) +
                                 " at scale " + one_line(text_));
  }
  return low;
}

bool Scale::equals(int64_t whole) const { return times(denominator_, whole) == numerator_; }

string detail::size_text(Size size) {
  return std::to_string(size.width) + "x" + std::to_string(size.height);
}

void detail::check_source(Size source) {
  const int64_t least = std::min(source.height, source.width);
  const int64_t most = std::max(source.height, source.width);
  if (least < 1 || most > kMaxSide) {
    throw Error(Code::usage, "picture sides must be from 1 to " + std::to_string(kMaxSide) +
                                 ", got " + size_text(source));
  }
}

Size detail::scaled_size(Size source, const Scale& scale) {
  return {scale.output_size(source.height), scale.output_size(source.width)};
}

std::optional<Size> detail::requested_size(Size source, const Target& target) {
  if (const auto* size = std::get_if<Size>(&target.wish())) return checked_size(source, *size);
  if (const auto* scales = std::get_if<Scales>(&target.wish())) {
    return Size{scales->rows.output_size(source.height),
                scales->columns.output_size(source.width)};
  }
  return std::nullopt;
}

Size detail::padded_size(Size source, int64_t multiple) {
  return {ceil_div(source.height, multiple) * multiple,
          ceil_div(source.width, multiple) * multiple};
}

Extent detail::whole_extent(int64_t source, int64_t target) {
  return {source, target, 0, source, 0, target};
}

Extent detail::extent_around(int64_t begin, int64_t end, int64_t source, int64_t target,
                             const Halo& halo) {
  if (halo.ratio) {
    const int64_t margin = halo.pixels * *halo.ratio;
    const int64_t first = floor_to(std::max<int64_t>(0, begin - margin), halo.align);
    const int64_t last = std::min(target, -floor_to(-(end + margin), halo.align));
    return {source, target, first / *halo.ratio, last / *halo.ratio, first, last};
  }
  const int64_t margin = halo.patches * halo.patch;
  const int64_t out_begin = floor_to(std::max<int64_t>(0, begin - margin), halo.align);
  return extent_of(out_begin, std::min(target, end + margin), source, target, halo);
}

Extent detail::extent_of(int64_t out_begin, int64_t out_end, int64_t source, int64_t target,
                         const Halo& halo) {
  const int64_t first = neighbor(out_begin, source, target) - halo.pixels;
  const int64_t last = neighbor(out_end - 1, source, target) + 1 + halo.pixels;
  const int64_t lr_begin = floor_to(std::max<int64_t>(0, first), halo.lr_align);
  return {source, target, lr_begin, std::min(source, last + 1), out_begin, out_end};
}

vector<int64_t> detail::geometry_of(const Extent& rows, const Extent& columns) {
  return {rows.source,    columns.source,    rows.target,    columns.target,
          rows.lr_begin,  columns.lr_begin,  rows.out_begin, columns.out_begin,
          rows.out_size(), columns.out_size()};
}

}  // namespace flowsr
