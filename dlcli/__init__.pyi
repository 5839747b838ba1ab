from dlcli.api import DlcliError as DlcliError
from dlcli.api import EvalResult as EvalResult
from dlcli.api import Model as Model
from dlcli.api import Run as Run
from dlcli.api import evaluate as evaluate
from dlcli.api import load as load
from dlcli.api import train as train

__version__: str
