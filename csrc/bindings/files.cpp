// Files read whole, with the GIL released once: Python's own files release it for every system call, and threads that
// take turns at it wait longer for their turn than for the bytes.
#include <fcntl.h>
#include <pybind11/pybind11.h>
#include <sys/stat.h>
#ifdef _WIN32
#include <io.h>

#include <filesystem>
#else
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>

namespace py = pybind11;

namespace fastssl {
namespace {

struct Contents {
  std::unique_ptr<char[]> data;
  size_t bytes = 0;
  bool suits = true;  // a regular file, and not too large
  int error = 0;
};

#ifdef _WIN32
using Status = struct _stat64;
using ssize_t = int;
int open_to_read(const char* path) {  // in UTF-8
  return _wopen(std::filesystem::u8path(path).c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT);
}
int status_of(int file, Status* about) { return _fstat64(file, about); }
ssize_t read_some(int file, char* to, size_t most) {
  return _read(file, to, unsigned(std::min<size_t>(most, 1 << 30)));
}
void close_file(int file) { _close(file); }
#else
using Status = struct stat;
int open_to_read(const char* path) { return open(path, O_RDONLY | O_CLOEXEC); }
int status_of(int file, Status* about) { return fstat(file, about); }
ssize_t read_some(int file, char* to, size_t most) { return read(file, to, std::min<size_t>(most, 1 << 30)); }
void close_file(int file) { close(file); }
#endif

Contents read_all(const char* path, size_t limit) {
  Contents found;
  const int file = open_to_read(path);
  Status about;
  if (file < 0 || status_of(file, &about) != 0) {
    found.error = errno;
  } else if ((about.st_mode & S_IFMT) != S_IFREG || size_t(about.st_size) > limit) {
    found.suits = false;
  } else {
    const size_t expected = size_t(about.st_size);
    found.data.reset(new char[expected + 1]);
    while (found.bytes < expected) {
      const ssize_t got = read_some(file, found.data.get() + found.bytes, expected - found.bytes);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) found.error = errno;
      if (got <= 0) break;  // an error, or the file has become shorter
      found.bytes += size_t(got);
    }
  }
  if (file >= 0) close_file(file);
  return found;
}

py::object read_file(const py::object& path, size_t limit) {
  PyObject* encoded = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &encoded)) throw py::error_already_set();
  const py::bytes name = py::reinterpret_steal<py::bytes>(encoded);
  const char* const text = PyBytes_AS_STRING(name.ptr());
  Contents found;
  {
    py::gil_scoped_release unlock;
    found = read_all(text, limit);
  }
  if (found.error) {
    errno = found.error;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path.ptr());
    throw py::error_already_set();
  }
  if (!found.suits) return py::none();
  return py::bytes(found.data.get(), found.bytes);
}

}  // namespace

void bind_files(py::module_& m) {
  m.def("read_file", read_file, py::arg("path"), py::arg("limit"),
        "The bytes of a file; None: it has more than ``limit``, or is not a regular one. Raises OSError.");
}

}  // namespace fastssl
