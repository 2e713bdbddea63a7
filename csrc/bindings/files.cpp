// Files read whole, with the GIL released once: Python's own files release it for every system call, and threads that
// take turns at it wait longer for their turn than for the bytes.
#include <fcntl.h>
#include <pybind11/pybind11.h>
#include <sys/stat.h>
#include <unistd.h>

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

Contents read_all(const char* path, size_t limit) {
  Contents found;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat about;
  if (file < 0 || fstat(file, &about) != 0) {
    found.error = errno;
  } else if (!S_ISREG(about.st_mode) || size_t(about.st_size) > limit) {
    found.suits = false;
  } else {
    const size_t expected = size_t(about.st_size);
    found.data.reset(new char[expected + 1]);
    while (found.bytes < expected) {
      const ssize_t got = read(file, found.data.get() + found.bytes, expected - found.bytes);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) found.error = errno;
      if (got <= 0) break;  // an error, or the file has become shorter
      found.bytes += size_t(got);
    }
  }
  if (file >= 0) close(file);
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
