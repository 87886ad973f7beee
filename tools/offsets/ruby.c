/*
 * Where does Ruby keep what a stack is read from? Prints a row of LAYOUTS in tracer/src/resolve/stack/ruby.rs for the sources of a version,
 * unpacked in SOURCE, and its configured header, which is in the package of headers:
 *   cc -I SOURCE -I SOURCE/include -I /usr/include/ruby-3.X.0 -I /usr/include/$(uname -m)-linux-gnu/ruby-3.X.0 ruby.c
 */
#define RUBY_EXPORT 1
#include "ruby/internal/config.h"
#include "vm_core.h"
#include "iseq.h"
#include <stddef.h>
#include <stdio.h>

#define AT(type, field) (unsigned long)offsetof(type, field)
#define ROW(name, value) printf("        " name ": %lu,\n", (unsigned long)(value))
/* What all versions have in common, in the file as constants. */
#define SAME(value, expected) \
	if ((unsigned long)(value) != (expected)) { fprintf(stderr, #value " is %lu, not " #expected "\n", (unsigned long)(value)); return 1; }

typedef struct rb_iseq_constant_body body;

int main(void)
{
	SAME(AT(rb_control_frame_t, pc), 0);
	SAME(AT(rb_control_frame_t, iseq), 16);
	SAME(AT(rb_iseq_t, body), 16);
	SAME(AT(body, iseq_encoded), 8);
	SAME(AT(rb_execution_context_t, vm_stack), 0);
	SAME(AT(rb_execution_context_t, vm_stack_size), 8);
	SAME(AT(rb_execution_context_t, cfp), 16);
	SAME(AT(struct RString, as.heap.ptr), 24);
	SAME(AT(struct RArray, as.heap.ptr), 32);
	SAME(AT(struct RArray, as.ary), 16);
	SAME(sizeof(struct iseq_insn_info_entry), 12);
	SAME(AT(struct iseq_insn_info_entry, line_no), 0);
	printf("    RubyLayout {\n");
	ROW("path", AT(body, location.pathobj));
	ROW("label", AT(body, location.label));
	ROW("lines", AT(body, insns_info.body));
	ROW("lines_number", AT(body, insns_info.size));
	ROW("index", AT(body, insns_info.succ_index_table));
	ROW("frame_bytes", sizeof(rb_control_frame_t));
	ROW("embedded", AT(struct RString, as.embed.ary));
	printf("    },\n");
	return 0;
}
