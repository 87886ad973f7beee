/*
 * Where in the table with which `_PyRuntime` begins is what a stack is read by? Prints the places that `said` in
 * tracer/src/resolve/stack/python.rs has, in words of eight bytes, for the headers of a version from 3.13 on:
 *   cc $(python3.X-config --includes) python_said.c
 */
#define Py_BUILD_CORE 1
#include <Python.h>
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_debug_offsets.h"
#else
#include "internal/pycore_runtime.h"
#endif
#include <stddef.h>
#include <stdio.h>

#define AT(field) (offsetof(_Py_DebugOffsets, field) / 8)
/* What is as far behind the beginning of its part in all versions. */
#define SAME(field, begin, expected) \
	if (AT(field) - (begin) != (expected)) { fprintf(stderr, #field " is at %zu\n", AT(field) - (begin)); return 1; }

int main(void)
{
	size_t thread = AT(thread_state), frame = AT(interpreter_frame), code = AT(code_object);
	SAME(runtime_state.interpreters_head, 0, 5);
	SAME(interpreter_state.next, 0, 8);
	SAME(interpreter_state.threads_head, 0, 9);
	SAME(thread_state.next, thread, 2);
	SAME(thread_state.current_frame, thread, 4);
	SAME(interpreter_frame.previous, frame, 1);
	SAME(interpreter_frame.executable, frame, 2);
	SAME(interpreter_frame.instr_ptr, frame, 3);
	SAME(interpreter_frame.owner, frame, 5);
	SAME(code_object.filename, code, 1);
	SAME(code_object.qualname, code, 3);
	SAME(code_object.linetable, code, 4);
	SAME(code_object.firstlineno, code, 5);
	SAME(code_object.co_code_adaptive, code, 9);
	printf("%d => (%zu, %zu, %zu, %zu),\n", PY_MINOR_VERSION, thread, AT(thread_state.thread_id), frame, code);
	return 0;
}
