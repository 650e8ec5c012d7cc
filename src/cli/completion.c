#include "cli/completion.h"

#include <stdbool.h>
#include <string.h>

static bool is_path(const struct option *option, const char *const *paths)
{
	for (; *paths; paths++)
		if (!strcmp(option->name, *paths))
			return true;
	return false;
}

/* "--config|-c", joined to what was there before. */
static void pattern(FILE *file, const struct option *option, bool first)
{
	fprintf(file, "%s--%s", first ? "" : "|", option->name);
	if (option->val > ' ' && option->val < 127)
		fprintf(file, "|-%c", option->val);
}

/* One branch of a case over option names: those that take a path, or anything else. */
static void branch(FILE *file, const struct option *options, const char *const *paths, bool want_path,
		   const char *body)
{
	bool first = true;
	for (const struct option *option = options; option->name; option++) {
		if (option->has_arg != required_argument || is_path(option, paths) != want_path)
			continue;
		if (first)
			fputs("\t", file);
		pattern(file, option, first);
		first = false;
	}
	if (!first)
		fprintf(file, ") %s ;;\n", body);
}

/* What may stand at one place behind a command. */
static void place(FILE *file, const char *name, unsigned index, const char *word, size_t length)
{
	if ((length == 4 && !strncmp(word, "FILE", 4)) || (length == 4 && !strncmp(word, "PATH", 4))) {
		fprintf(file, "\t%s:%u) paths=1 ;;\n", name, index);
	} else if (length && strspn(word, "abcdefghijklmnopqrstuvwxyz-|") >= length) {
		fprintf(file, "\t%s:%u) words=\"", name, index);
		for (size_t i = 0; i < length; i++)
			fputc(word[i] == '|' ? ' ' : word[i], file);
		fputs("\" ;;\n", file);
	}
}

static void places(FILE *file, const struct ft_completion_command *command)
{
	unsigned index = 0;
	for (const char *at = command->rest; *at;) {
		size_t skip = strspn(at, " []"), length = strcspn(at + skip, " []");
		if (length)
			place(file, command->name, index++, at + skip, length);
		at += skip + length;
	}
}

void ft_completion_bash(FILE *file, const struct ft_completion_command *commands, size_t count,
			const struct option *options, const char *const *paths)
{
	fputs("# Completion of foretaste in bash; made by `foretaste completion bash`.\n"
	      "_foretaste()\n"
	      "{\n"
	      "\tlocal word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} option= command= "
	      "words= paths=\n"
	      "\tlocal -i place=0 i\n"
	      "\t# \"--option=value\" comes as three words.\n"
	      "\tif [[ $word == = ]]; then\n"
	      "\t\toption=$before word=\n"
	      "\telif [[ $before == = ]]; then\n"
	      "\t\toption=${COMP_WORDS[COMP_CWORD-2]}\n"
	      "\telse\n"
	      "\t\toption=$before\n"
	      "\tfi\n"
	      "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	      "\t\tcase ${COMP_WORDS[i]} in\n\t",
	      file);
	branch(file, options, paths, true, "[[ ${COMP_WORDS[i+1]} == = ]] && i+=1; i+=1");
	fputs("\t", file);
	branch(file, options, paths, false, "[[ ${COMP_WORDS[i+1]} == = ]] && i+=1; i+=1");
	fputs("\t\t-*) ;;\n"
	      "\t\t*) if [[ $command ]]; then place+=1; else command=${COMP_WORDS[i]}; fi ;;\n"
	      "\t\tesac\n"
	      "\tdone\n"
	      "\tCOMPREPLY=()\n"
	      "\tcase $option in\n",
	      file);
	branch(file, options, paths, true, "paths=1");
	branch(file, options, paths, false, "return");
	fputs("\t*)\n"
	      "\t\tif [[ $word == -* ]]; then\n"
	      "\t\t\twords=\"",
	      file);
	for (const struct option *option = options; option->name; option++)
		fprintf(file, "%s--%s", option == options ? "" : " ", option->name);
	fputs("\"\n"
	      "\t\telif [[ ! $command ]]; then\n"
	      "\t\t\twords=\"",
	      file);
	for (size_t i = 0; i < count; i++)
		fprintf(file, "%s%s", i ? " " : "", commands[i].name);
	fputs("\"\n"
	      "\t\tfi\n"
	      "\t\t;;\n"
	      "\tesac\n"
	      "\t[[ $words$paths ]] || case $command:$place in\n",
	      file);
	for (size_t i = 0; i < count; i++)
		places(file, &commands[i]);
	fputs("\tesac\n"
	      "\tif [[ $paths ]]; then\n"
	      "\t\tcompopt -o filenames 2>/dev/null\n"
	      "\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
	      "\telif [[ $words ]]; then\n"
	      "\t\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
	      "\tfi\n"
	      "}\n"
	      "complete -F _foretaste foretaste\n",
	      file);
}
