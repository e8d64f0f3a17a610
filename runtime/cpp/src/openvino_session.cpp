// Runs a bundle's ONNX file with OpenVINO, on the CPU.

#include <openvino/openvino.hpp>

#include <algorithm>
#include <limits>
#include <mutex>

#include "cores.hpp"
#include "session.hpp"

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
    const std::string name = bundle.model_name(settings.precision);
    const std::string path = bundle.path() + "/" + name;
    const std::string bytes = bundle.read(name);  // the very bytes whose hash was checked
    try {
      const std::shared_ptr<ov::Model> model = core_.read_model(bytes, ov::Tensor());
      check(*model, bundle.manifest(), path);
      const int threads = settings.threads > 0 ? settings.threads : usable_cores();
      // Its own choice would be bfloat16 where a CPU has it.
      compiled_ = core_.compile_model(model, "CPU", ov::inference_num_threads(threads),
                                      ov::num_streams(1),
                                      ov::hint::inference_precision(ov::element::f32));
    } catch (const ov::Exception& error) {
      throw Error(Code::bundle,
                  "openvino cannot load " + path + ": " + one_line(error.what()));
    }
  }

  Output run(const std::vector<Input>& inputs) override {
    check_geometry(inputs);
    try {
      ov::InferRequest request = borrow();
      for (const Input& input : inputs) {
        const ov::Shape shape(input.shape.begin(), input.shape.end());
        request.set_tensor(input.name, ov::Tensor(type_of(input.kind), shape,
                                                  const_cast<void*>(input.data)));
      }
      request.infer();
      Output output = copied(request.get_output_tensor(0));
      give_back(std::move(request));
      return output;
    } catch (const ov::Exception& error) {
      if (says_out_of_memory(error.what())) {
        throw Error(Code::memory, "openvino ran out of memory; give a smaller memory_budget");
      }
      throw Error(Code::backend, "openvino failed: " + one_line(error.what()));
    }
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

  ov::InferRequest borrow() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return compiled_.create_infer_request();
    ov::InferRequest request = std::move(idle_.back());
    idle_.pop_back();
    return request;
  }

  void give_back(ov::InferRequest request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(request));
  }

  ov::Core core_;
  ov::CompiledModel compiled_;
  std::mutex mutex_;
  std::vector<ov::InferRequest> idle_;
};

}  // namespace

std::unique_ptr<Session> open_openvino(const Bundle& bundle, const Settings& settings) {
  return std::make_unique<OpenvinoSession>(bundle, settings);
}

}  // namespace flowsr::detail
