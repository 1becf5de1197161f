/*
 * A libnvidia-ml.so.1 whose GPUs follow a script, so that the real pynvml runs on any machine.
 *
 * The script is the text file named in the environment variable JOBWATT_NVML_SCRIPT. It is read
 * again whenever its inode, size or mtime changes: replace it with rename(2). No script means no
 * driver: every call returns DRIVER_NOT_LOADED.
 *
 * One fact a line, `#` starts a comment, words are separated by single blanks.
 *
 *   driver TEXT              driver version              cuda N       12080 for CUDA 12.8
 *   rm_version N             nvmlInit returns LIB_RM_VERSION_MISMATCH unless N is this library's own
 *                            version (-DSHIM_VERSION=N, default 1)
 *   sleep_ms N               every call first sleeps so long, or until the script says otherwise: a
 *                            driver that hangs
 *   gpm_min_ms N             GPM samples closer than this give NO_DATA (default 100, as documented)
 *   error FUNCTION TARGET CODE [FROM [UNTIL]]
 *                            FUNCTION returns CODE; FUNCTION may be `*`; TARGET is `*`, a GPU (`3`)
 *                            or an instance (`3.0`); FROM, UNTIL are ns of CLOCK_BOOTTIME.
 *                            A GPU's errors do not hit its instances. nvmlErrorString never fails.
 *   GPU KEY VALUE...         GPU is NVML's index, 0 ... 15; naming it makes it exist:
 *       uuid TEXT   name TEXT   minor N   pci DOMAIN BUS DEVICE (hex)
 *       energy MJ            a fixed counter; `energy none`: not supported
 *       energy_live MJ NS    the counter was MJ at NS (CLOCK_BOOTTIME) and moves with `power`
 *       power MW   power_average MW (default: as power)   limit MW   max_limit MW
 *       util GPU MEMORY (%)   memory USED TOTAL (bytes)   temperature C   clocks SM MEM (MHz)
 *       reasons MASK          field ID VALUE      field_error ID CODE (the element's nvmlReturn)
 *       process PID BYTES SM KIND         KIND C: compute, M: MPS client; SM -1: no sample
 *       gpm ID VALUE          a GPM metric; a GPU without any does not support GPM
 *       xid SERIAL XID        an event, delivered once per process and SERIAL (rising)
 *       mig 0|1   max_mig N   MIG mode; instances are seen only with mig 1
 *   GPU.SLOT KEY VALUE...    a MIG instance:
 *       uuid TEXT  name TEXT  gi N  ci N  slices GI CI  attributes_mb N
 *       memory USED TOTAL   process PID BYTES SM KIND   gpm ID VALUE
 *
 * Handles of a device that changed its UUID, or of before the last nvmlInit, are stale and give
 * INVALID_ARGUMENT.
 *
 * Calls are counted per function: nvmlshim_calls(name) in the process ("" for all),
 * nvmlshim_reset_calls(), and, where JOBWATT_NVML_COUNTS names a file, `NAME COUNT` lines in it,
 * written at each nvmlShutdown and when the process exits.
 */
#include "nvml.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#ifndef SHIM_VERSION
#define SHIM_VERSION 1
#endif

typedef struct { unsigned pid; unsigned long long bytes; int sm; char kind; } process_t;
typedef struct { int id; double value; } metric_t;
typedef struct { unsigned id; int code; int given; unsigned long long value; } field_t;

typedef struct {
    int present;
    char uuid[96], name[96];
    unsigned gi, ci, gi_slices, ci_slices;
    unsigned long long attributes_mb, used, total;
    int processes, metrics;
    process_t process[MAX_PROCESSES];
    metric_t metric[MAX_METRICS];
} mig_t;

typedef struct {
    mig_t self; /* what a GPU has in common with an instance */
    unsigned minor, domain, bus, device;
    int no_energy, live;
    unsigned long long energy_mj, since_ns;
    unsigned power_mw, average_mw, limit_mw, max_limit_mw, util, util_memory, temperature, sm_mhz, mem_mhz;
    int has_average;
    unsigned long long reasons;
    int fields, events, mig_mode, max_mig;
    field_t field[MAX_FIELDS];
    struct { unsigned long long serial, xid; } event[MAX_EVENTS];
    mig_t mig[MAX_MIG];
} gpu_t;

typedef struct { char function[64]; int gpu, slot, code; unsigned long long from_ns, until_ns; } error_t;

static struct {
    int loaded, rm_version, gpm_min_ms, sleep_ms, cuda, errors;
    char driver[80];
    gpu_t gpu[MAX_GPUS];
    error_t error[MAX_ERRORS];
} world;

struct handle { int gpu, slot, generation; char uuid[96]; struct handle *next; };
struct sample { int gpu; int gi; unsigned long long t_ns; };
struct event_set { unsigned gpus; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct handle *handles; /* of this generation; older ones stay valid memory, and stale */
static int references, generation;
static unsigned long long delivered[MAX_GPUS];
static struct { char name[64]; long count; } calls[128];
static int call_names;

static unsigned long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
}

/* ---- the script ---- */

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static int add_common(mig_t *c, const char *key, char *rest) {
    if (!strcmp(key, "uuid")) copy(c->uuid, sizeof c->uuid, rest);
    else if (!strcmp(key, "name")) copy(c->name, sizeof c->name, rest);
    else if (!strcmp(key, "gi")) c->gi = (unsigned)atoi(rest);
    else if (!strcmp(key, "ci")) c->ci = (unsigned)atoi(rest);
    else if (!strcmp(key, "slices")) sscanf(rest, "%u %u", &c->gi_slices, &c->ci_slices);
    else if (!strcmp(key, "attributes_mb")) c->attributes_mb = strtoull(rest, NULL, 10);
    else if (!strcmp(key, "memory")) sscanf(rest, "%llu %llu", &c->used, &c->total);
    else if (!strcmp(key, "process") && c->processes < MAX_PROCESSES) {
        process_t *p = &c->process[c->processes++];
        sscanf(rest, "%u %llu %d %c", &p->pid, &p->bytes, &p->sm, &p->kind);
    } else if (!strcmp(key, "gpm") && c->metrics < MAX_METRICS) {
        metric_t *m = &c->metric[c->metrics++];
        sscanf(rest, "%d %lf", &m->id, &m->value);
    } else return 0;
    return 1;
}

static field_t *field_of(gpu_t *g, unsigned id) {
    for (int i = 0; i < g->fields; i++)
        if (g->field[i].id == id) return &g->field[i];
    if (g->fields == MAX_FIELDS) return &g->field[0];
    g->field[g->fields].id = id;
    return &g->field[g->fields++];
}

static void add_gpu(gpu_t *g, const char *key, char *rest) {
    unsigned id;
    unsigned long long a, b;
    int code;
    if (add_common(&g->self, key, rest)) return;
    if (!strcmp(key, "minor")) g->minor = (unsigned)atoi(rest);
    else if (!strcmp(key, "pci")) sscanf(rest, "%x %x %x", &g->domain, &g->bus, &g->device);
    else if (!strcmp(key, "energy")) { g->no_energy = !strcmp(rest, "none"); g->energy_mj = strtoull(rest, NULL, 10); }
    else if (!strcmp(key, "energy_live")) { g->live = 1; sscanf(rest, "%llu %llu", &g->energy_mj, &g->since_ns); }
    else if (!strcmp(key, "power")) g->power_mw = (unsigned)strtoul(rest, NULL, 10);
    else if (!strcmp(key, "power_average")) { g->has_average = 1; g->average_mw = (unsigned)strtoul(rest, NULL, 10); }
    else if (!strcmp(key, "limit")) g->limit_mw = (unsigned)strtoul(rest, NULL, 10);
    else if (!strcmp(key, "max_limit")) g->max_limit_mw = (unsigned)strtoul(rest, NULL, 10);
    else if (!strcmp(key, "util")) sscanf(rest, "%u %u", &g->util, &g->util_memory);
    else if (!strcmp(key, "temperature")) g->temperature = (unsigned)atoi(rest);
    else if (!strcmp(key, "clocks")) sscanf(rest, "%u %u", &g->sm_mhz, &g->mem_mhz);
    else if (!strcmp(key, "reasons")) g->reasons = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "field") && sscanf(rest, "%u %llu", &id, &a) == 2) { field_t *f = field_of(g, id); f->given = 1; f->value = a; }
    else if (!strcmp(key, "field_error") && sscanf(rest, "%u %d", &id, &code) == 2) field_of(g, id)->code = code;
    else if (!strcmp(key, "mig")) g->mig_mode = atoi(rest);
    else if (!strcmp(key, "max_mig")) g->max_mig = atoi(rest);
    else if (!strcmp(key, "xid") && g->events < MAX_EVENTS && sscanf(rest, "%llu %llu", &a, &b) == 2) {
        g->event[g->events].serial = a;
        g->event[g->events++].xid = b;
    } else fprintf(stderr, "nvml shim: unknown key %s\n", key);
}

static void add_error(char *rest) {
    if (world.errors == MAX_ERRORS) return;
    error_t *e = &world.error[world.errors];
    char target[32] = "*";
    memset(e, 0, sizeof *e);
    e->until_ns = ~0ull;
    e->gpu = e->slot = -1;
    if (sscanf(rest, "%63s %31s %d %llu %llu", e->function, target, &e->code, &e->from_ns, &e->until_ns) < 3) return;
    if (target[0] != '*') sscanf(target, "%d.%d", &e->gpu, &e->slot);
    world.errors++;
}

static void add_line(char *line) {
    int gpu, slot, used = 0;
    char *rest = strchr(line, ' ');
    line[strcspn(line, "\n")] = 0;
    if (line[0] == '#' || line[0] == 0 || !rest) return;
    *rest++ = 0;
    if (!strcmp(line, "driver")) copy(world.driver, sizeof world.driver, rest);
    else if (!strcmp(line, "cuda")) world.cuda = atoi(rest);
    else if (!strcmp(line, "rm_version")) world.rm_version = atoi(rest);
    else if (!strcmp(line, "gpm_min_ms")) world.gpm_min_ms = atoi(rest);
    else if (!strcmp(line, "sleep_ms")) world.sleep_ms = atoi(rest);
    else if (!strcmp(line, "error")) add_error(rest);
    else if (sscanf(line, "%d%n", &gpu, &used) == 1 && gpu >= 0 && gpu < MAX_GPUS) {
        char *key = rest, *value = strchr(rest, ' ');
        if (value) *value++ = 0; else value = "";
        gpu_t *g = &world.gpu[gpu];
        if (line[used] == '.' && sscanf(line + used, ".%d", &slot) == 1 && slot >= 0 && slot < MAX_MIG) {
            g->mig[slot].present = 1;
            add_common(&g->mig[slot], key, value);
        } else {
            g->self.present = 1;
            add_gpu(g, key, value);
        }
    }
}

static void refresh(void) {
    static FILE *file; /* kept open, so that its inode number is not given to the next script */
    static struct stat last;
    struct stat s;
    const char *path = getenv("JOBWATT_NVML_SCRIPT");
    char line[1024];
    if (!path || stat(path, &s)) { world.loaded = 0; return; }
    if (world.loaded && s.st_ino == last.st_ino && s.st_dev == last.st_dev && s.st_size == last.st_size
        && s.st_mtim.tv_sec == last.st_mtim.tv_sec && s.st_mtim.tv_nsec == last.st_mtim.tv_nsec) return;
    if (file) fclose(file);
    file = fopen(path, "r");
    memset(&world, 0, sizeof world);
    if (!file || fstat(fileno(file), &last)) return;
    world.gpm_min_ms = 100;
    while (fgets(line, sizeof line, file)) add_line(line);
    world.loaded = 1;
}

/* ---- what every call begins with ---- */

static void count(const char *name) {
    int i = 0;
    while (i < call_names && strcmp(calls[i].name, name)) i++;
    if (i == 128) return;
    if (i == call_names) copy(calls[call_names++].name, sizeof calls[i].name, name);
    calls[i].count++;
}

static int scripted_error(const char *function, int gpu, int slot) {
    unsigned long long now = 0;
    for (int i = 0; i < world.errors; i++) {
        error_t *e = &world.error[i];
        if (strcmp(e->function, "*") && strcmp(e->function, function)) continue;
        if (e->gpu >= 0 && (e->gpu != gpu || e->slot != slot)) continue;
        if (!now) now = now_ns();
        if (now >= e->from_ns && now < e->until_ns) return e->code;
    }
    return OK;
}

/* As a driver that hangs: nothing else gets in meanwhile. */
static void hang(void) {
    struct timespec nap = {0, 5 * 1000 * 1000};
    refresh();
    for (int slept = 0; world.loaded && slept < world.sleep_ms; slept += 5) {
        nanosleep(&nap, NULL);
        refresh();
    }
}

static int enter(const char *function) {
    hang();
    count(function);
    if (!world.loaded) return DRIVER_NOT_LOADED;
    if (!references) return UNINITIALIZED;
    return OK;
}

static int enter_device(const char *function, nvmlDevice_t h, gpu_t **g, mig_t **m) {
    int rc = enter(function);
    if (rc) return rc;
    if (!h || h->generation != generation) return INVALID_ARGUMENT;
    rc = scripted_error(function, h->gpu, h->slot);
    if (rc) return rc;
    *g = &world.gpu[h->gpu];
    if (!(*g)->self.present) return GPU_IS_LOST;
    *m = h->slot < 0 ? &(*g)->self : &(*g)->mig[h->slot];
    if (h->slot >= 0 && (!(*g)->mig_mode || !(*m)->present)) return INVALID_ARGUMENT;
    return strcmp(h->uuid, (*m)->uuid) ? INVALID_ARGUMENT : OK;
}

#define BEGIN(target)                                              \
    pthread_mutex_lock(&lock);                                     \
    int rc = enter(__func__);                                      \
    if (!rc) rc = scripted_error(__func__, -1, -1);                \
    if (!rc) {
#define BEGIN_DEVICE(h)                                            \
    gpu_t *g = NULL;                                               \
    mig_t *m = NULL;                                               \
    pthread_mutex_lock(&lock);                                     \
    int rc = enter_device(__func__, (h), &g, &m);                  \
    (void)g, (void)m;                                              \
    if (!rc) {
#define BEGIN_WHOLE(h)                                             \
    BEGIN_DEVICE(h)                                                \
    if (h->slot >= 0) rc = NOT_SUPPORTED;                          \
    else {
#define END                                                        \
    }                                                              \
    pthread_mutex_unlock(&lock);                                   \
    return rc;
#define END_WHOLE                                                  \
    }                                                              \
    END

static nvmlDevice_t handle_for(int gpu, int slot, const char *uuid) {
    struct handle *h;
    for (h = handles; h; h = h->next)
        if (h->gpu == gpu && h->slot == slot && !strcmp(h->uuid, uuid)) return h;
    h = calloc(1, sizeof *h);
    h->gpu = gpu;
    h->slot = slot;
    h->generation = generation;
    copy(h->uuid, sizeof h->uuid, uuid);
    h->next = handles;
    return handles = h;
}

/* ---- counting ---- */

long nvmlshim_calls(const char *name) {
    long sum = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < call_names; i++)
        if (!name[0] || !strcmp(name, calls[i].name)) sum += calls[i].count;
    pthread_mutex_unlock(&lock);
    return sum;
}

const char *nvmlshim_call_name(int i) { return i >= 0 && i < call_names ? calls[i].name : NULL; }
int nvmlshim_references(void) { return references; }

void nvmlshim_reset_calls(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < call_names; i++) calls[i].count = 0;
    pthread_mutex_unlock(&lock);
}

static void __attribute__((destructor)) write_counts(void) {
    const char *path = getenv("JOBWATT_NVML_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int i = 0; i < call_names; i++) fprintf(file, "%s %ld\n", calls[i].name, calls[i].count);
    fclose(file);
}

/* ---- the library ---- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    hang();
    count(__func__);
    int rc = world.loaded ? scripted_error(__func__, -1, -1) : DRIVER_NOT_LOADED;
    if (!rc && world.rm_version && world.rm_version != SHIM_VERSION) rc = LIB_RM_VERSION_MISMATCH;
    if (!rc && references++ == 0) {
        generation++;
        handles = NULL;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    refresh();
    count(__func__);
    int rc = references ? OK : UNINITIALIZED;
    if (references) references--;
    if (!rc) rc = scripted_error(__func__, -1, -1);
    write_counts();
    pthread_mutex_unlock(&lock);
    return rc;
}

const char *nvmlErrorString(nvmlReturn_t code) {
    static char text[48];
    snprintf(text, sizeof text, "error %d of the shim", code);
    return text;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned size) { BEGIN() copy(text, size, world.driver); END }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *text, unsigned size) { BEGIN() copy(text, size, world.driver); END }
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { BEGIN() *version = world.cuda; END }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { BEGIN() *version = world.cuda; END }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) {
    BEGIN()
    *n = 0;
    for (int i = 0; i < MAX_GPUS; i++) *n += world.gpu[i].self.present != 0;
    END
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *h) {
    pthread_mutex_lock(&lock);
    int rc = enter(__func__);
    if (!rc) rc = scripted_error(__func__, (int)index, -1);
    if (!rc && (index >= MAX_GPUS || !world.gpu[index].self.present)) rc = INVALID_ARGUMENT;
    if (!rc) {
        *h = handle_for((int)index, -1, world.gpu[index].self.uuid);
    END
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *h) {
    pthread_mutex_lock(&lock);
    int rc = enter(__func__), gpu = 0;
    while (gpu < MAX_GPUS && (!world.gpu[gpu].self.present || strcmp(world.gpu[gpu].self.uuid, uuid))) gpu++;
    if (!rc && gpu == MAX_GPUS) rc = NOT_FOUND;
    if (!rc) rc = scripted_error(__func__, gpu, -1);
    if (!rc) {
        *h = handle_for(gpu, -1, uuid);
    END
}

/* ---- one device ---- */

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t h, char *text, unsigned size) { BEGIN_DEVICE(h) copy(text, size, m->uuid); END }
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t h, char *text, unsigned size) { BEGIN_DEVICE(h) copy(text, size, m->name); END }
nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t h, unsigned *n) { BEGIN_DEVICE(h) *n = (unsigned)(h->slot < 0 ? h->gpu : h->slot); END }
nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t h, unsigned *n) { BEGIN_WHOLE(h) *n = g->minor; END_WHOLE }

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t h, nvmlPciInfo_t *p) {
    BEGIN_WHOLE(h)
    memset(p, 0, sizeof *p);
    p->domain = g->domain;
    p->bus = g->bus;
    p->device = g->device;
    snprintf(p->bus_id, sizeof p->bus_id, "%08X:%02X:%02X.0", g->domain, g->bus, g->device);
    END_WHOLE
}

static unsigned long long energy_mj(gpu_t *g) {
    if (!g->live) return g->energy_mj;
    return g->energy_mj + (unsigned long long)((__int128)(now_ns() - g->since_ns) * g->power_mw / 1000000000);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t h, unsigned long long *mj) {
    BEGIN_WHOLE(h)
    if (g->no_energy) rc = NOT_SUPPORTED;
    else *mj = energy_mj(g);
    END_WHOLE
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t h, unsigned *mw) { BEGIN_WHOLE(h) *mw = g->power_mw; END_WHOLE }
nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t h, unsigned *mw) { BEGIN_WHOLE(h) *mw = g->limit_mw; END_WHOLE }

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t h, unsigned *low, unsigned *high) {
    BEGIN_WHOLE(h) *low = 100000; *high = g->max_limit_mw; END_WHOLE
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t h, nvmlUtilization_t *u) {
    BEGIN_WHOLE(h)
    if (g->mig_mode) rc = NOT_SUPPORTED;
    u->gpu = g->util;
    u->memory = g->util_memory;
    END_WHOLE
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t h, nvmlMemory_t *x) {
    BEGIN_DEVICE(h) x->total = m->total; x->used = m->used; x->free = m->total - m->used; END
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t h, nvmlMemory_v2_t *x) {
    BEGIN_DEVICE(h) x->total = m->total; x->used = m->used; x->free = m->total - m->used; x->reserved = 0; END
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t h, int sensor, unsigned *c) { (void)sensor; BEGIN_WHOLE(h) *c = g->temperature; END_WHOLE }
nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t h, nvmlTemperature_t *t) { BEGIN_WHOLE(h) t->temperature = (int)g->temperature; END_WHOLE }

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t h, int type, unsigned *mhz) {
    BEGIN_WHOLE(h) *mhz = type == 2 ? g->mem_mhz : g->sm_mhz; END_WHOLE
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t h, unsigned long long *mask) { BEGIN_WHOLE(h) *mask = g->reasons; END_WHOLE }
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t h, unsigned long long *mask) { BEGIN_WHOLE(h) *mask = g->reasons; END_WHOLE }

static void fill_field(gpu_t *g, nvmlFieldValue_t *v) {
    field_t *f = NULL;
    for (int i = 0; i < g->fields; i++)
        if (g->field[i].id == v->field_id) f = &g->field[i];
    v->timestamp = (long long)(now_ns() / 1000);
    v->latency_us = 1;
    v->type = 3; /* unsigned long long */
    v->rc = OK;
    if (f && f->code) v->rc = f->code;
    else if (v->field_id >= 142 && v->field_id <= 145 && g->mig_mode) v->rc = NOT_SUPPORTED;
    else if (f && f->given) v->value.ull = f->value;
    else if ((v->field_id == 83 || v->field_id == 191) && !g->no_energy) v->value.ull = energy_mj(g);
    else if (v->field_id == 186 || v->field_id == 185) {
        v->type = 1; /* unsigned int */
        v->value.ui = v->field_id == 185 && g->has_average ? g->average_mw : g->power_mw;
    } else v->rc = NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t h, int n, nvmlFieldValue_t *values) {
    BEGIN_WHOLE(h)
    for (int i = 0; i < n; i++) fill_field(g, &values[i]);
    END_WHOLE
}

/* ---- processes ---- */

static int list_processes(mig_t *m, char kind, unsigned *n, nvmlProcessInfo_t *out) {
    unsigned found = 0, room = *n;
    for (int i = 0; i < m->processes; i++) {
        if (m->process[i].kind != kind) continue;
        if (out && found < room) {
            out[found].pid = m->process[i].pid;
            out[found].bytes = m->process[i].bytes;
            out[found].gi = m->gi;
            out[found].ci = m->ci;
        }
        found++;
    }
    *n = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t h, unsigned *n, nvmlProcessInfo_t *out) {
    BEGIN_DEVICE(h) rc = list_processes(m, 'C', n, out); END
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t h, unsigned *n, nvmlProcessInfo_t *out) {
    BEGIN_DEVICE(h) rc = list_processes(m, 'M', n, out); END
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t h, nvmlProcessSample_t *out, unsigned *n, unsigned long long seen) {
    BEGIN_WHOLE(h)
    unsigned found = 0, room = *n;
    unsigned long long us = now_ns() / 1000;
    for (int i = 0; i < m->processes; i++) {
        if (m->process[i].sm <= 0) continue;
        if (out && found < room) {
            memset(&out[found], 0, sizeof *out);
            out[found].pid = m->process[i].pid;
            out[found].timestamp = us > seen ? us : seen + 1;
            out[found].sm = (unsigned)m->process[i].sm;
        }
        found++;
    }
    *n = found;
    if (g->mig_mode) rc = NOT_SUPPORTED;
    else if (!found) rc = NOT_FOUND;
    else if (found > room) rc = INSUFFICIENT_SIZE;
    END_WHOLE
}

/* ---- MIG ---- */

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t h, unsigned *current, unsigned *pending) {
    BEGIN_WHOLE(h)
    if (!g->max_mig) rc = NOT_SUPPORTED;
    *current = *pending = (unsigned)g->mig_mode;
    END_WHOLE
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t h, unsigned *n) { BEGIN_WHOLE(h) *n = (unsigned)g->max_mig; END_WHOLE }

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t h, unsigned index, nvmlDevice_t *out) {
    BEGIN_WHOLE(h)
    if (index >= MAX_MIG || (int)index >= g->max_mig) rc = INVALID_ARGUMENT;
    else if (!g->mig_mode || !g->mig[index].present) rc = NOT_FOUND;
    else *out = handle_for(h->gpu, (int)index, g->mig[index].uuid);
    END_WHOLE
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t h, unsigned *n) { BEGIN_DEVICE(h) if (h->slot < 0) rc = NOT_SUPPORTED; *n = m->gi; END }
nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t h, unsigned *n) { BEGIN_DEVICE(h) if (h->slot < 0) rc = NOT_SUPPORTED; *n = m->ci; END }

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t h, nvmlDeviceAttributes_t *a) {
    BEGIN_DEVICE(h)
    memset(a, 0, sizeof *a);
    if (h->slot < 0) rc = NOT_SUPPORTED;
    a->gi_slices = m->gi_slices;
    a->ci_slices = m->ci_slices;
    a->memory_mb = m->attributes_mb;
    END
}

/* ---- GPM ---- */

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t h, nvmlGpmSupport_t *s) {
    BEGIN_DEVICE(h)
    s->supported = g->self.metrics > 0;
    for (int i = 0; i < MAX_MIG; i++) s->supported |= g->mig[i].present && g->mig[i].metrics > 0;
    END
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *s) { BEGIN() *s = calloc(1, sizeof **s); END }
nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t s) { BEGIN() free(s); END }

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t h, nvmlGpmSample_t s) {
    BEGIN_WHOLE(h) s->gpu = h->gpu; s->gi = -1; s->t_ns = now_ns(); END_WHOLE
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t h, unsigned gi, nvmlGpmSample_t s) {
    BEGIN_WHOLE(h)
    rc = NOT_FOUND;
    for (int i = 0; i < MAX_MIG; i++)
        if (g->mig_mode && g->mig[i].present && g->mig[i].gi == gi) rc = OK;
    s->gpu = h->gpu; s->gi = (int)gi; s->t_ns = now_ns();
    END_WHOLE
}

static mig_t *sampled(nvmlGpmSample_t s) {
    gpu_t *g = &world.gpu[s->gpu];
    for (int i = 0; s->gi >= 0 && i < MAX_MIG; i++)
        if (g->mig[i].present && (int)g->mig[i].gi == s->gi) return &g->mig[i];
    return &g->self;
}

static void fill_metric(nvmlGpmMetricsGet_t *x, nvmlGpmMetric_t *out) {
    mig_t *m = sampled(x->sample2);
    out->rc = NOT_SUPPORTED;
    if (x->sample2->t_ns < x->sample1->t_ns + (unsigned long long)world.gpm_min_ms * 1000000ull) { out->rc = NO_DATA; return; }
    for (int i = 0; i < m->metrics; i++)
        if (m->metric[i].id == (int)out->id) { out->rc = OK; out->value = m->metric[i].value; }
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *x) {
    pthread_mutex_lock(&lock);
    int rc = enter(__func__);
    if (!rc && x->version != 1) rc = ARGUMENT_VERSION_MISMATCH;
    if (!rc && (!x->sample1 || !x->sample2 || x->sample1->gpu != x->sample2->gpu || x->sample1->gi != x->sample2->gi))
        rc = INVALID_ARGUMENT;
    if (!rc) rc = scripted_error(__func__, x->sample2->gpu, -1);
    if (!rc) {
        for (unsigned i = 0; i < x->n; i++) fill_metric(x, &x->metric[i]);
    END
}

/* ---- events ---- */

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) { BEGIN() *set = calloc(1, sizeof **set); END }
nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) { BEGIN() free(set); END }
nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t h, unsigned long long *mask) { BEGIN_WHOLE(h) *mask = 8; END_WHOLE }

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t h, unsigned long long mask, nvmlEventSet_t set) {
    BEGIN_WHOLE(h)
    if (mask & 8) set->gpus |= 1u << h->gpu;
    END_WHOLE
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
    (void)timeout_ms;
    BEGIN()
    rc = TIMEOUT;
    for (int i = 0; rc && i < MAX_GPUS; i++) {
        gpu_t *g = &world.gpu[i];
        for (int j = 0; rc && (set->gpus >> i & 1) && j < g->events; j++) {
            if (g->event[j].serial <= delivered[i]) continue;
            delivered[i] = g->event[j].serial;
            data->device = handle_for(i, -1, g->self.uuid);
            data->type = 8;
            data->data = g->event[j].xid;
            data->gi = data->ci = ~0u;
            rc = OK;
        }
    }
    END
}

void nvmlshim_forget_events(void) { memset(delivered, 0, sizeof delivered); }
