# make demo   draw synthetic coins, prepare, train, evaluate and predict, all under demo/
# make test   lint and tests
# make clean  remove what the two made

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test clean

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto

demo: .venv/user
	$(BIN)/python make_demo_coins.py --output demo/images --faces 4
	$(BIN)/python prepare_dataset.py --source demo/images --output demo/coin_dataset
	$(BIN)/python coin_classifier_custom.py --preset demo --data demo/coin_dataset --output demo --runs demo/runs
	$(BIN)/python predict.py --checkpoint demo/coin_classifier_custom_best.pth "$$(ls demo/coin_dataset/test/*/*.jpg | tail -n 1)"
	$(BIN)/python predict.py --checkpoint demo/coin_classifier_custom_best.pth --faces demo/images/vf30/obverse/40000039.jpg demo/images/vf30/reverse/40000039.jpg
	@echo
	@echo "That was the demo. Its curves: $(BIN)/tensorboard --logdir=demo/runs"
	@echo "How good it is, and which coins it got wrong: demo/report/index.html"
	@echo "How the coins with two photos were cut out: demo/coin_dataset/cut_coins.html"
	@echo "For coins of your own, put photos into images/<grade>/obverse/ and reverse/, or, of both faces in one photo,"
	@echo "into images/<grade>/6000x3000/, and run:"
	@echo "  $(BIN)/python prepare_dataset.py"
	@echo "  $(BIN)/python coin_classifier_custom.py --preset narrow"
	@echo "  $(BIN)/python predict.py photo.jpg"

.venv/user: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14) and 'Python 3.11 to 3.14 is needed: make demo PYTHON=python3.14')"
	$(PYTHON) -m venv .venv
	@echo "Installing the packages: several GB, so minutes in which nothing is printed"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev: .venv/user requirements-dev.txt requirements-export.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv demo
