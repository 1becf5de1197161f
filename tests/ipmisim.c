/*
 * What OpenIPMI's ipmi_sim lacks to be a BMC that measures power: DCMI's commands (netfn 0x2c, group
 * 0xdc), answered from a file that is read anew at each question: "watts state code delay_s".
 *
 *   state    bit 6: power is measured (DCMI 1.5, Get Power Reading)
 *   code     IPMI completion code; 0 for an answer
 *   delay_s  how long the whole BMC is silent first
 *
 * Loaded by lan.conf's loadlib; preloaded too, so that DCMI is open to USER as its standard has it
 * (ipmi_sim keeps every command that it does not know for ADMIN).
 */
#define _GNU_SOURCE
#include <OpenIPMI/mcserv.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { GROUP_NETFN = 0x2c, DCMI = 0xdc, CAPABILITIES = 1, POWER_READING = 2, POWER_LIMIT = 3 };
enum { INVALID_COMMAND = 0xc1, NO_LIMIT = 0x80, USER = 2 };

static char answers[512];

static void put16(unsigned char *to, unsigned value)
{
    to[0] = value & 0xff;
    to[1] = value >> 8;
}

static void dcmi(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *data)
{
    unsigned watts = 0, state = 0, code = INVALID_COMMAND, delay_s = 0;
    FILE *file = fopen(answers, "r");

    if (file) {
        if (fscanf(file, "%u %u %u %u", &watts, &state, &code, &delay_s) != 4)
            code = INVALID_COMMAND;
        fclose(file);
    }
    sleep(delay_s);
    memset(rdata, 0, 19);
    rdata[1] = DCMI;
    *rdata_len = 2;
    rdata[0] = code ? code : msg->cmd == POWER_LIMIT ? NO_LIMIT : msg->cmd > POWER_LIMIT ? INVALID_COMMAND : 0;
    if (rdata[0])
        return;
    if (msg->cmd == CAPABILITIES) { /* version 1.5; power management is there */
        rdata[2] = 1;
        rdata[3] = 5;
        rdata[4] = 2;
        rdata[6] = 1;
        rdata[7] = 7;
        *rdata_len = 8;
    } else { /* now, least, most, mean in W; timestamp; period in ms; state */
        put16(rdata + 2, watts);
        put16(rdata + 4, watts / 2);
        put16(rdata + 6, watts * 2);
        put16(rdata + 8, watts + 7);
        put16(rdata + 14, 1000);
        rdata[18] = state;
        *rdata_len = 19;
    }
}

int ipmi_cmd_permitted(unsigned char privilege, unsigned char netfn, unsigned char cmd)
{
    int (*theirs)(unsigned char, unsigned char, unsigned char) = dlsym(RTLD_NEXT, "ipmi_cmd_permitted");

    return theirs(netfn == GROUP_NETFN && privilege >= USER ? 4 : privilege, netfn, cmd);
}

int ipmi_sim_module_print_version(sys_data_t *sys, char *options)
{
    return 0;
}

int ipmi_sim_module_init(sys_data_t *sys, const char *options)
{
    snprintf(answers, sizeof answers, "%s", options);
    ipmi_emu_register_group_extension_handler(DCMI, dcmi, NULL);
    return 0;
}
