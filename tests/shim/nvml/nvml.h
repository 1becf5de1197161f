/*
 * The part of NVML's interface that the scripted library offers: layouts as in NVIDIA's nvml.h
 * (and as the ctypes structures of nvidia-ml-py), names of members its own.
 */
#ifndef JOBWATT_SHIM_NVML_H
#define JOBWATT_SHIM_NVML_H

enum {
    MAX_GPUS = 16, MAX_MIG = 8, MAX_PROCESSES = 64, MAX_METRICS = 16,
    MAX_FIELDS = 64, MAX_EVENTS = 32, MAX_ERRORS = 512
};

typedef int nvmlReturn_t;
enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15,
    LIB_RM_VERSION_MISMATCH = 18, NO_DATA = 21, ARGUMENT_VERSION_MISMATCH = 25
};

typedef struct handle *nvmlDevice_t;
typedef struct sample *nvmlGpmSample_t;
typedef struct event_set *nvmlEventSet_t;

typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned version; int sensor; int temperature; } nvmlTemperature_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gi, ci; } nvmlProcessInfo_t;
typedef struct { unsigned pid; unsigned long long timestamp; unsigned sm, memory, enc, dec; } nvmlProcessSample_t;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned field_id, scope_id;
    long long timestamp, latency_us;
    unsigned type;
    nvmlReturn_t rc;
    union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value;
} nvmlFieldValue_t;

typedef struct {
    unsigned sms, copy_engines, decoders, encoders, jpegs, ofas, gi_slices, ci_slices;
    unsigned long long memory_mb;
} nvmlDeviceAttributes_t;

typedef struct { nvmlDevice_t device; unsigned long long type, data; unsigned gi, ci; } nvmlEventData_t;

typedef struct { unsigned version, supported; } nvmlGpmSupport_t;
typedef struct { unsigned id; nvmlReturn_t rc; double value; struct { char *short_name, *long_name, *unit; } info; } nvmlGpmMetric_t;
typedef struct { unsigned version, n; nvmlGpmSample_t sample1, sample2; nvmlGpmMetric_t metric[]; } nvmlGpmMetricsGet_t;

#endif
