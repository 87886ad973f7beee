/*
 * Where does CPython keep what a stack is read from? Prints a row of LAYOUTS in tracer/src/resolve/stack/python.rs for the headers
 * it is compiled with: cc -I$(python3.X-config --includes) python.c. Versions from 3.13 on say it themselves.
 */
#define Py_BUILD_CORE 1
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
#if PY_VERSION_HEX >= 0x03090000
#include "internal/pycore_runtime.h"
#include "internal/pycore_interp.h"
#else
#include "internal/pycore_pystate.h"
#endif
#if PY_VERSION_HEX >= 0x030B0000
#include "internal/pycore_frame.h"
#else
#include <frameobject.h>
#endif

#define AT(type, field) (unsigned long)offsetof(type, field)
#define ROW(name, value) printf("        " name ": %lu,\n", (unsigned long)(value))

int main(void)
{
	printf("    PythonLayout {\n");
	ROW("minor", PY_MINOR_VERSION);
	ROW("interpreter", AT(struct pyruntimestate, interpreters.head));
#if PY_VERSION_HEX >= 0x030B0000
	ROW("thread", AT(PyInterpreterState, threads.head));
#else
	ROW("thread", AT(PyInterpreterState, tstate_head));
#endif
	ROW("next_interpreter", AT(PyInterpreterState, next));
	ROW("next", AT(PyThreadState, next));
	ROW("pthread", AT(PyThreadState, thread_id));
#if PY_VERSION_HEX >= 0x030D0000
	printf("        frame: InnermostFrame::At(%lu),\n", AT(PyThreadState, current_frame));
#elif PY_VERSION_HEX >= 0x030B0000
	printf("        frame: InnermostFrame::Behind(%lu, %lu),\n", AT(PyThreadState, cframe), AT(_PyCFrame, current_frame));
#else
	printf("        frame: InnermostFrame::At(%lu),\n", AT(PyThreadState, frame));
#endif
#if PY_VERSION_HEX >= 0x030D0000
#define CODE f_executable
#define INSTRUCTION instr_ptr
#else
#define CODE f_code
#define INSTRUCTION prev_instr
#endif
#if PY_VERSION_HEX >= 0x030B0000
	ROW("previous", AT(_PyInterpreterFrame, previous));
	ROW("code", AT(_PyInterpreterFrame, CODE));
	ROW("instruction", AT(_PyInterpreterFrame, INSTRUCTION));
	ROW("owner", AT(_PyInterpreterFrame, owner));
	ROW("name", AT(PyCodeObject, co_qualname));
	ROW("lines", AT(PyCodeObject, co_linetable));
	ROW("bytecode", AT(PyCodeObject, co_code_adaptive));
#else
	ROW("previous", AT(PyFrameObject, f_back));
	ROW("code", AT(PyFrameObject, f_code));
	ROW("instruction", AT(PyFrameObject, f_lasti));
	ROW("owner", 0);
	ROW("name", AT(PyCodeObject, co_name));
#if PY_VERSION_HEX >= 0x030A0000
	ROW("lines", AT(PyCodeObject, co_linetable));
#else
	ROW("lines", AT(PyCodeObject, co_lnotab));
#endif
	ROW("bytecode", 0);
#endif
	ROW("file", AT(PyCodeObject, co_filename));
	ROW("first_line", AT(PyCodeObject, co_firstlineno));
	ROW("ascii", sizeof(PyASCIIObject));
	ROW("compact", sizeof(PyCompactUnicodeObject));
	printf("    },\n");
	fprintf(stderr, "# unicode length %lu state %lu; size %lu bytes %lu\n", AT(PyASCIIObject, length), AT(PyASCIIObject, state),
		AT(PyVarObject, ob_size), AT(PyBytesObject, ob_sval));
	return 0;
}
