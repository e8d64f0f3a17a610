// Runs a bundle's ONNX file with OpenVINO, on the CPU.

#include <openvino/openvino.hpp>
#include <openvino/opsets/opset13.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <list>
#include <map>
#include <mutex>

#include "machine/cores.hpp"
#include "backends/session.hpp"

namespace flowsr::detail {

namespace {

ov::element::Type type_of(Kind kind) {
  return kind == Kind::float32 ? ov::element::f32
         : kind == Kind::uint8 ? ov::element::u8
                               : ov::element::i64;
}

Kind kind_of(const ov::element::Type& type) {
  return type == ov::element::f32   ? Kind::float32
         : type == ov::element::u8  ? Kind::uint8
         : type == ov::element::i64 ? Kind::int64
                                    : Kind::other;
}

/// Refuses an image whose geometry overflows the 32 bits of OpenVINO's CPU plug-in.
void check_geometry(const std::vector<Input>& inputs) {
  for (const Input& input : inputs) {
    if (input.name != "geometry") continue;
    const auto* sizes = static_cast<const std::int64_t*>(input.data);
    for (const int axis : {0, 1}) {
      const std::int64_t source = sizes[axis], target = sizes[2 + axis];
      // The graph's largest products: (2 Y + 1) h of a row Y up to one patch below the last,
      // and 2 H more that make it positive. A patch is far smaller than the factor's slack.
      if (2 * (target + 64) * (source + 1) + 4 * target >
          std::numeric_limits<std::int32_t>::max()) {
        throw Error(Code::usage,
                    "openvino computes geometry in 32 bits and takes no picture of " +
                        std::to_string(source) + " upscaled to " + std::to_string(target) +
                        " pixels; use onnxruntime");
      }
    }
  }
}

std::shared_ptr<ov::Node> constant(double value) {
  return ov::opset13::Constant::create(ov::element::f32, ov::Shape{},
                                       {static_cast<float>(value)});
}

/// Returns the sine or cosine of angles; see the session in Python, whose operations these are.
std::shared_ptr<ov::Node> wave(const ov::Output<ov::Node>& angle, bool cosine) {
  using namespace ov::opset13;
  const auto times = [](const ov::Output<ov::Node>& a, const ov::Output<ov::Node>& b) {
    return std::make_shared<Multiply>(a, b);
  };
  const auto minus = [](const ov::Output<ov::Node>& a, const ov::Output<ov::Node>& b) {
    return std::make_shared<Subtract>(a, b);
  };
  const double pi = std::acos(-1.0);
  const auto turns = std::make_shared<Round>(times(angle, constant(1 / pi)),
                                             Round::RoundMode::HALF_TO_EVEN);
  ov::Output<ov::Node> rest = angle;
  for (const double part : {3.140625, 0.0009670257568359375, 6.2771141529083e-07}) {
    rest = minus(rest, times(turns, constant(part)));
  }
  const auto halves = std::make_shared<Floor>(times(turns, constant(0.5)));
  const auto odd = minus(turns, times(halves, constant(2)));
  const auto sign = minus(constant(1), times(odd, constant(2)));
  const auto square = times(rest, rest);
  double factorial = 1;
  std::vector<double> series = {1};
  for (int i = cosine ? 1 : 2; i < 14; i += 2) {  // the powers up to 13 or 14
    factorial *= static_cast<double>(i) * (i + 1);
    series.push_back((series.size() % 2 == 0 ? 1 : -1) / factorial);
  }
  std::shared_ptr<ov::Node> value = constant(series.back());
  for (std::size_t i = series.size() - 1; i-- > 0;) {
    value = std::make_shared<Add>(times(value, square), constant(series[i]));
  }
  if (!cosine) value = times(value, rest);
  return times(value, sign);
}

/// Replaces every sine and cosine, whose kernels compute one value at a time.
void replace_waves(const ov::Model& model) {
  for (const std::shared_ptr<ov::Node>& node : model.get_ordered_ops()) {
    const bool cosine = ov::is_type<ov::opset13::Cos>(node);
    if (!cosine && !ov::is_type<ov::opset13::Sin>(node)) continue;
    if (node->get_element_type() != ov::element::f32) continue;
    node->output(0).replace(wave(node->input_value(0), cosine)->output(0));
  }
}

/// Compiled models that are kept, one for each set of shapes; see the session in Python.
constexpr std::size_t kSizes = 8;

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

/// A model compiled for one set of shapes, and its idle requests.
class Compiled {
 public:
  explicit Compiled(ov::CompiledModel model) : model_(std::move(model)) {}

  ov::InferRequest borrow() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return model_.create_infer_request();
    ov::InferRequest request = std::move(idle_.back());
    idle_.pop_back();
    return request;
  }

  void give_back(ov::InferRequest request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(request));
  }

 private:
  ov::CompiledModel model_;
  std::mutex mutex_;
  std::vector<ov::InferRequest> idle_;
};

class OpenvinoSession : public Session {
 public:
  OpenvinoSession(const Bundle& bundle, const Settings& settings) {
    if (!settings.provider.empty() && settings.provider != "cpu") {
      throw Error(Code::usage, "provider must be cpu with openvino, got " + settings.provider);
    }
    if (settings.device != 0) {
      throw Error(Code::usage, "device must be 0 with openvino, got " +
                                   std::to_string(settings.device));
    }
    const bool bfloat16 = settings.precision == "bf16";
    if (bfloat16 && !has_bfloat16()) {
      throw Error(Code::backend,
                  "precision bf16 needs a CPU with AVX512_BF16 or AMX with backend openvino; "
                  "this one has neither");
    }
    precision_ = bfloat16 ? ov::element::bf16 : ov::element::f32;
    threads_ = settings.threads > 0 ? settings.threads : usable_cores();
    const std::string name = bundle.model_name(bfloat16 ? "fp32" : settings.precision);
    const std::string path = bundle.path() + "/" + name;
    const std::string bytes = bundle.read(name);  // the very bytes whose hash was checked
    try {
      model_ = core_.read_model(bytes, ov::Tensor());
      if (!bfloat16) replace_waves(*model_);
      check(*model_, bundle.manifest(), path);
    } catch (const ov::Exception& error) {
      throw Error(Code::bundle,
                  "openvino cannot load " + path + ": " + one_line(error.what()));
    }
  }

  Output run(const std::vector<Input>& inputs) override {
    check_geometry(inputs);
    try {
      const std::shared_ptr<Compiled> compiled = compiled_for(inputs);
      ov::InferRequest request = compiled->borrow();
      for (const Input& input : inputs) {
        const ov::Shape shape(input.shape.begin(), input.shape.end());
        request.set_tensor(input.name, ov::Tensor(type_of(input.kind), shape,
                                                  const_cast<void*>(input.data)));
      }
      request.infer();
      Output output = copied(request.get_output_tensor(0));
      compiled->give_back(std::move(request));
      return output;
    } catch (const ov::Exception& error) {
      if (says_out_of_memory(error.what())) {
        throw Error(Code::memory, "openvino ran out of memory; give a smaller memory_budget");
      }
      throw Error(Code::backend, "openvino failed: " + one_line(error.what()));
    }
  }

  SessionFacts facts() const override {
    const std::string build = ov::get_openvino_version().buildNumber;
    const std::size_t dash = build.find('-', build.find('-') + 1);
    return {"openvino", "cpu", "openvino " + build.substr(0, dash), ""};
  }

 private:
  static void check(const ov::Model& model, const Manifest& manifest, const std::string& path) {
    std::vector<std::string> names;
    for (const auto& input : model.inputs()) {
      names.push_back(input.get_any_name());
      const bool picture = names.back() == "input";
      const auto due = manifest.eight_bit ? ov::element::u8 : ov::element::f32;
      if (picture && input.get_element_type() != due) {
        throw Error(Code::bundle,
                    path + " takes pictures of another type than bundle.json says");
      }
    }
    check_inputs(path, names, manifest);
  }

  /// Copies the result: the next run reuses the memory of the request.
  static Output copied(const ov::Tensor& tensor) {
    const auto copy =
        std::make_shared<ov::Tensor>(tensor.get_element_type(), tensor.get_shape());
    tensor.copy_to(*copy);
    Output output;
    output.kind = kind_of(copy->get_element_type());
    for (const std::size_t side : copy->get_shape()) {
      output.shape.push_back(static_cast<std::int64_t>(side));
    }
    output.data = copy->data();
    output.owner = copy;
    return output;
  }

  bool has_bfloat16() {
    const auto able = core_.get_property("CPU", ov::device::capabilities);
    return std::find(able.begin(), able.end(), std::string("BF16")) != able.end();
  }

  /// Returns the model for the shapes of some inputs, compiled at their first use.
  std::shared_ptr<Compiled> compiled_for(const std::vector<Input>& inputs) {
    Shapes shapes;
    for (const Input& input : inputs) shapes[input.name] = input.shape;
    const std::lock_guard<std::mutex> lock(mutex_);
    auto found = std::find_if(compiled_.begin(), compiled_.end(),
                              [&](const auto& entry) { return entry.first == shapes; });
    if (found == compiled_.end()) {
      const std::shared_ptr<ov::Model> fixed = model_->clone();
      std::map<std::string, ov::PartialShape> due;
      for (const auto& [name, shape] : shapes) {
        due[name] = ov::Shape(shape.begin(), shape.end());
      }
      fixed->reshape(due);
      // Its own choice would be bfloat16 where a CPU has it.
      auto compiled = std::make_shared<Compiled>(core_.compile_model(
          fixed, "CPU", ov::inference_num_threads(threads_), ov::num_streams(1),
          ov::hint::inference_precision(precision_)));
      compiled_.emplace_front(std::move(shapes), std::move(compiled));
      if (compiled_.size() > kSizes) compiled_.pop_back();
    } else {
      compiled_.splice(compiled_.begin(), compiled_, found);
    }
    return compiled_.front().second;
  }

  ov::Core core_;
  std::shared_ptr<ov::Model> model_;
  ov::element::Type precision_;
  int threads_ = 1;
  std::mutex mutex_;
  std::list<std::pair<Shapes, std::shared_ptr<Compiled>>> compiled_;  // the last used first
};

}  // namespace

std::unique_ptr<Session> open_openvino(const Bundle& bundle, const Settings& settings) {
  return std::make_unique<OpenvinoSession>(bundle, settings);
}

}  // namespace flowsr::detail
