"""Alerts for a site: its one file read and checked, rules and Alertmanager's files written from it."""
