#!/bin/bash
# Runs a command in the environment of ROS 2, with this package installed by pip in SAL360_PREFIX.
set -e
# shellcheck source=/dev/null
source "${ROS_SETUP:-/opt/ros/$ROS_DISTRO/setup.bash}"
export AMENT_PREFIX_PATH="${SAL360_PREFIX:-/usr/local}:$AMENT_PREFIX_PATH"
exec "$@"
