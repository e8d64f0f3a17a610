/// A strict reader of JSON (RFC 8259), and a writer with the same texts as Python's.
#ifndef FLOWSR_JSON_HPP
#define FLOWSR_JSON_HPP

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace flowsr::detail {

/// An error in a JSON text, with its position.
class JsonError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };

  /// Reads one value in UTF-8. Throws JsonError.
  static Json parse(const std::string& text);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool boolean() const { return boolean_; }
  /// The characters of a string, or the digits of a number.
  const std::string& text() const { return text_; }
  const std::vector<Json>& items() const { return items_; }
  const std::vector<std::pair<std::string, Json>>& members() const { return members_; }

  /// The member of an object by name, null without one.
  const Json* find(const std::string& name) const;
  /// The number, if it is an integer of 64 bits.
  std::optional<std::int64_t> whole() const;
  /// The number, if it is finite.
  std::optional<double> real() const;

  /// The text of `json.dumps(value, sort_keys=True, separators=(",", ":"))`, with numbers as
  /// written.
  std::string compact() const;
  /// The text of `json.dumps(value, sort_keys=True, indent=1)`.
  std::string indented() const;
  /// The same object without a member.
  Json without(const std::string& name) const;
  /// The value in a message: as Python prints it, shortened if long.
  std::string shown() const;

 private:
  friend class JsonReader;
  void write(std::string& out, int level) const;

  Kind kind_ = Kind::null;
  bool boolean_ = false;
  std::string text_;
  std::vector<Json> items_;
  std::vector<std::pair<std::string, Json>> members_;  // sorted by name, each name once
};

}  // namespace flowsr::detail

#endif  // FLOWSR_JSON_HPP
