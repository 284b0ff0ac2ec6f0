/* SPDX-License-Identifier: Apache-2.0 */
/* Reads rules, KEY=VALUE{,KEY=VALUE}:SPEC, once. What a spec means is the library's to know. */
#include "rules.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_MIN_BYTES = 1 << 20 };
static const uint64_t default_state_bytes = (uint64_t)4 << 30;

static const struct {
    const char *key;
    size_t      offset;
    uint64_t    least; /* 0 stands for any */
} numbers[] = {
    {"site", offsetof(preload_rule_t, site), 1},     {"comm", offsetof(preload_rule_t, comm), 1},
    {"count", offsetof(preload_rule_t, count), 1},   {"min", offsetof(preload_rule_t, min_bytes), 0},
    {"max", offsetof(preload_rule_t, max_bytes), 1}, {"after", offsetof(preload_rule_t, after), 0},
};

const char *const preload_dtype_names[PRELOAD_DTYPES] = {"float32", "float16", "bfloat16"};
const size_t      preload_dtype_bytes[PRELOAD_DTYPES] = {4, 2, 2};

static pthread_once_t  once = PTHREAD_ONCE_INIT;
static preload_rules_t all;

/* With K, M or G (1024), up to 2^53, so that nothing overflows. */
static bool parse_number(const char *text, uint64_t *number_out)
{
    static const char units[] = "KMG";
    char             *end;
    const uint64_t    number = strtoull(text, &end, 10);
    const char       *unit = *end != '\0' ? strchr(units, *end) : NULL;
    const int         shift = unit != NULL ? 10 * (int)(unit - units + 1) : 0;

    if (text[0] < '0' || text[0] > '9' || end[unit != NULL] != '\0' || number > (UINT64_MAX >> 11 >> shift)) {
        return false;
    }
    *number_out = number << shift;
    return true;
}

static bool parse_condition(char *condition, preload_rule_t *rule)
{
    char *value = strchr(condition, '=');

    if (value == NULL) {
        return false;
    }
    *value++ = '\0';
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(condition, numbers[i].key) == 0) {
            uint64_t *number = (uint64_t *)(void *)((char *)rule + numbers[i].offset);

            return *number == 0 && parse_number(value, number) && *number >= numbers[i].least;
        }
    }
    for (size_t i = 0; rule->dtype == NULL && strcmp(condition, "dtype") == 0 && i < PRELOAD_DTYPES; i++) {
        if (strcmp(value, preload_dtype_names[i]) == 0) {
            rule->dtype = preload_dtype_names[i];
            return true;
        }
    }
    if (strcmp(condition, "order") == 0 && strcmp(value, "fixed") == 0 && !rule->ordered) {
        rule->ordered = true;
        return true;
    }
    return false;
}

/* Cuts `text` to pieces, to which the rule refers from then on. */
static bool parse_rule(char *text, preload_rule_t *rule)
{
    char *spec = strchr(text, ':'), *rest = NULL;

    if (spec == NULL || spec == text || spec[1] == '\0') {
        return false;
    }
    *spec++ = '\0';
    rule->spec = spec;
    for (char *condition = strtok_r(text, ",", &rest); condition != NULL; condition = strtok_r(NULL, ",", &rest)) {
        if (!parse_condition(condition, rule)) {
            return false;
        }
    }
    return rule->max_bytes == 0 || rule->min_bytes <= rule->max_bytes;
}

static void hash(const char *text)
{
    for (const char *at = text != NULL ? text : ""; *at != '\0'; at++) {
        all.hash = (all.hash ^ (uint8_t)*at) * 16777619u;
    }
    all.hash = (all.hash ^ ';') * 16777619u;
}

/* A variable that is empty is one that is not there. */
static const char *variable(const char *name)
{
    const char *text = getenv(name);

    hash(text);
    return text != NULL && text[0] != '\0' ? text : NULL;
}

static uint64_t bytes_of(const char *name, uint64_t otherwise)
{
    const char *text = variable(name);

    if (text != NULL && !parse_number(text, &otherwise)) {
        snprintf(all.error, sizeof all.error, "%s=%.100s is no number of bytes", name, text);
    }
    return otherwise;
}

static void parse_rules(const char *text)
{
    static char *copy; /* rules refer to it as long as the process lives */
    char        *rest = NULL;

    copy = strdup(text);
    for (char *rule = copy != NULL ? strtok_r(copy, ";", &rest) : NULL; rule != NULL; rule = strtok_r(NULL, ";", &rest)) {
        char original[128];

        snprintf(original, sizeof original, "%s", rule);
        if (all.count == PRELOAD_RULES - 1) {
            snprintf(all.error, sizeof all.error, "there are more than %d rules", PRELOAD_RULES - 1);
            return;
        }
        if (!parse_rule(rule, &all.rules[all.count++])) {
            snprintf(all.error, sizeof all.error,
                     "'%s' is not KEY=VALUE{,KEY=VALUE}:SPEC with the keys min, after, dtype, order, and from 1 on site, comm, "
                     "count, max (min or more), each once at most",
                     original);
            return;
        }
    }
}

static void read_environment(void)
{
    const char *rules, *every;
    uint64_t    least;

    all.hash = 2166136261u;
    rules = variable("TACIT_RULE");
    every = variable("TACIT_ALLREDUCE");
    least = bytes_of("TACIT_MIN_BYTES", DEFAULT_MIN_BYTES);
    all.state_bytes = bytes_of("TACIT_STATE_BYTES", default_state_bytes);
    if (rules != NULL) {
        parse_rules(rules);
    }
    if (every != NULL) {
        all.rules[all.count++] = (preload_rule_t){.min_bytes = least, .all_reduces = true, .spec = every};
    }
    all.hash &= INT32_MAX;
    all.asked = (rules != NULL || every != NULL) && (all.count != 0 || all.error[0] != '\0');
    all.count = all.error[0] == '\0' ? all.count : 0;
}

bool preload_remembers(const char *spec)
{
    return strchr(spec, '+') != NULL || strncmp(spec, "powersgd", 8) == 0;
}

uint64_t preload_state_bytes(const char *spec, uint64_t elements, int ranks)
{
    const uint64_t bytes = elements * sizeof(float);

    return strchr(spec, '+') != NULL ? bytes + bytes / (uint64_t)ranks : 0;
}

int preload_timeout(void)
{
    const char *limit = getenv("TACIT_TIMEOUT_MS");

    return limit != NULL && limit[0] != '\0' ? 0 : -1;
}

const preload_rules_t *preload_rules(void)
{
    pthread_once(&once, read_environment);
    return &all;
}

static bool fits(const preload_rule_t *rule, const preload_target_t *target)
{
    return (rule->site == 0 || rule->site == target->site) && (rule->comm == 0 || rule->comm == target->comm) &&
           (rule->count == 0 || rule->count == target->count) && target->bytes >= rule->min_bytes &&
           (rule->max_bytes == 0 || target->bytes <= rule->max_bytes) && !(rule->all_reduces && target->scatters) &&
           (rule->dtype == NULL || strcmp(rule->dtype, target->dtype) == 0);
}

int preload_rule_for(const preload_rules_t *rules, const preload_target_t *target)
{
    for (size_t i = 0; i < rules->count; i++) {
        if (fits(&rules->rules[i], target)) {
            return (int)i + 1;
        }
    }
    return 0;
}

void preload_announce(const char *function)
{
    const preload_rules_t *rules = preload_rules();
    const preload_rule_t  *last = &rules->rules[rules->count - 1];

    if (getenv("TACIT_ALLREDUCE") != NULL && getenv("TACIT_ALLREDUCE")[0] != '\0') {
        fprintf(stderr,
                "tacit: %s() sums floats of %" PRIu64 " bytes and more by '%s'%s: results may be inexact, as was asked for\n",
                function, last->min_bytes, last->spec, rules->count > 1 ? ", others by rules" : "");
    } else {
        fprintf(stderr, "tacit: %s() sums floats by %zu rule%s: results may be inexact, as was asked for\n", function,
                rules->count, rules->count > 1 ? "s" : "");
    }
}

void preload_warn(unsigned number, int rank, bool *said, const char *format, ...)
{
    char    text[512];
    va_list arguments;

    if (rank == 0 && !*said) {
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        fprintf(stderr, "tacit: communicator %u: %s\n", number, text);
    }
    *said = true;
}

bool preload_explains(void)
{
    const char *level = getenv("TACIT_LOG");

    return level != NULL && (strcmp(level, "info") == 0 || strcmp(level, "debug") == 0 || strcmp(level, "trace") == 0);
}
