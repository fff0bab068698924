// The file that Node loads as tfjs_binding.node. It loads the real binding, tfjs_backend.so beside it, and
// hands Node's call on to it; then it adds our own functions (orthonormal-kernels.cc). Meanwhile it holds stderr, because TensorFlow writes a notice while its library
// is being loaded that no setting turns off; everything but that notice is passed on.
#include <dlfcn.h>
#include <node_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sstream>
#include <string>

namespace {

constexpr int kStderr = 2;

std::string FolderOfThisFile() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&FolderOfThisFile), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/'));
}

bool StartsWith(const std::string& line, const char* prefix) { return line.rfind(prefix, 0) == 0; }

// "I0000 00:00:…" is a log line of severity INFO; the WARNING is about when such lines are written.
bool IsNotice(const std::string& line) {
  return StartsWith(line, "I0000 ") || StartsWith(line, "WARNING: All log messages before absl::InitializeLog()");
}

void PassOn(int captured) {
  std::string text;
  char buffer[4096];
  lseek(captured, 0, SEEK_SET);
  for (ssize_t count; (count = read(captured, buffer, sizeof buffer)) > 0;) text.append(buffer, count);
  std::istringstream lines(text);
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    if (!IsNotice(line)) kept += line + '\n';
  }
  if (!kept.empty() && write(kStderr, kept.data(), kept.size()) < 0) return;  // nobody reads stderr
}

void* Load(const std::string& path) {
  const int original = dup(kStderr);
  const int captured = memfd_create("stderr", MFD_CLOEXEC);
  const bool is_held = original >= 0 && captured >= 0 && dup2(captured, kStderr) >= 0;
  void* library = dlopen(path.c_str(), RTLD_LAZY);
  if (is_held) {
    dup2(original, kStderr);
    PassOn(captured);
  }
  if (original >= 0) close(original);
  if (captured >= 0) close(captured);
  return library;
}

}  // namespace

NAPI_MODULE_INIT() {
  void* library = Load(FolderOfThisFile() + "/tfjs_backend.so");
  void* start = library == nullptr ? nullptr : dlsym(library, "napi_register_module_v1");
  if (start == nullptr) {
    napi_throw_error(env, nullptr, dlerror());
    return nullptr;
  }
  const napi_value binding = reinterpret_cast<napi_addon_register_func>(start)(env, exports);
  void* define = dlsym(library, "GaloreDefineFunctions");
  if (define != nullptr && binding != nullptr) {
    reinterpret_cast<void (*)(napi_env, napi_value)>(define)(env, binding);
  }
  return binding;
}
