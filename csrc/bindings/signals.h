// What a handler of Python's signals raises while a kernel runs: Ctrl-C, or the end of a time limit.
#pragma once
#include <pybind11/pybind11.h>

namespace fastssl {

inline PyObject* raised = nullptr;  // Python's lock guards it

// Whether a handler has raised, for the kernel to end; from any thread.
inline int python_asks_to_stop() {
  pybind11::gil_scoped_acquire lock;
  if (PyErr_CheckSignals() == 0) return 0;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  Py_XDECREF(raised);
  raised = value;
  return 1;
}

// The exception, once, or None.
inline pybind11::object take_raised() {
  PyObject* const value = raised;
  raised = nullptr;
  return value ? pybind11::reinterpret_steal<pybind11::object>(value) : pybind11::object(pybind11::none());
}

[[noreturn]] inline void raise_again() {
  const pybind11::object value = take_raised();
  PyErr_SetObject(value.is_none() ? PyExc_KeyboardInterrupt : reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())),
                  value.ptr());
  throw pybind11::error_already_set();
}

}  // namespace fastssl
